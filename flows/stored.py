"""What saved blocks say in place of a run's parameters and of the worker's settings. `flows/ingest.py` asks.

Reads only.
"""

from __future__ import annotations

from typing import Any, TypeVar, cast

from anyio import to_thread
from prefect.blocks.core import Block

from blocks import MediaProfile, MediaSource, MediaStore, MediaToolchain
from flows.request import SourceRequest, source_of
from flows.roots import is_deployed
from tidegate.errors import BadInput
from tidegate.model import Order, Source
from tidegate.settings import Settings
from tidegate.stages import Workbench
from tidegate.transfer.request import allow_any

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


async def source_in(request: SourceRequest, bench: Workbench) -> Source:
    """The engine's source, once it is known that this run may read it.

    Raises:
        BadInput, UnsupportedSource: the request, or the block that it names, is not valid.
        PathRefused: it is a file that this run may not read; nobody has looked whether it is there.
    """
    block = await _block(MediaSource, request.block) if request.block else None
    may_read = bench.roots.require_readable if bench.roots else allow_any
    return await to_thread.run_sync(
        lambda: block.source(may_read) if block else source_of(request, bench.home, may_read)
    )
