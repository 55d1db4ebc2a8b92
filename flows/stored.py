"""What saved blocks say in place of a run's parameters and of the worker's settings. `flows/ingest.py` asks.

Reads only.
"""

from __future__ import annotations

import os
from typing import Any, TypeVar, cast

from prefect.blocks.core import Block
from prefect.runtime import deployment

from blocks import MediaProfile, MediaSource, MediaStore, MediaToolchain
from flows.request import SourceRequest, source_of
from tidegate.errors import BadInput
from tidegate.model import Order, Source
from tidegate.settings import Settings
from tidegate.stages import Workbench

B = TypeVar("B", bound=Block)


async def _block(kind: type[B], name: str) -> B:
    """The saved block.

    Raises:
        BadInput: the server has none of that kind and name.
    """
    try:
        return cast("B", await cast("Any", kind.aload(name)))
    except ValueError as error:
        raise BadInput(f"There is no block {kind.get_block_type_slug()}/{name}") from error


async def order_of(block: str | None, otherwise: Order) -> Order:
    return (await _block(MediaProfile, block)).order() if block else otherwise


async def settings_of(store_block: str | None, toolchain_block: str | None) -> Settings:
    settings = Settings.load()
    if store_block:
        settings = settings.model_copy(update={"store": (await _block(MediaStore, store_block)).settings()})
    if toolchain_block:
        settings = settings.model_copy(update={"tools": (await _block(MediaToolchain, toolchain_block)).settings()})
    return with_policy(settings, deployed=is_deployed())


def with_policy(settings: Settings, *, deployed: bool) -> Settings:
    """Who types a command may reach what he may reach anyway; a deployment takes links from others."""
    if settings.network.policy is not None:
        return settings
    network = settings.network.model_copy(update={"policy": "public" if deployed else "open"})
    return settings.model_copy(update={"network": network})


def is_deployed() -> bool:
    """Whether somebody else started this process for a run. A subflow knows no deployment of its own, but the process
    was told by its worker or runner which run it is for."""
    return "PREFECT__FLOW_RUN_ID" in os.environ or deployment.id is not None


async def source_in(request: SourceRequest, bench: Workbench) -> Source:
    if request.block:
        return (await _block(MediaSource, request.block)).source()
    return source_of(request, bench.home)
