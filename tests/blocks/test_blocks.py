"""A block describes its fields for the form, keeps secrets secret, and gives one engine object."""

from __future__ import annotations

import traceback
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect.blocks.core import Block
from pydantic import SecretStr, ValidationError

import blocks
from blocks import MediaProfile, MediaSource, MediaStore, MediaToolchain
from tidegate.errors import BadInput
from tidegate.model import Order, ProfileName, Quality, Source
from tidegate.settings import StoreSettings, ToolSettings

ALL: list[type[Block]] = [getattr(blocks, name) for name in blocks.__all__]
LINK = "https://host/film.mp4?token=tok-5f1c0a7e"


def test_every_block_of_the_package_is_exported() -> None:
    files = {path.stem for path in Path(blocks.__path__[0]).glob("*.py")} - {"__init__"}
    assert {block.__module__ for block in ALL} == {f"blocks.{name}" for name in files}


@pytest.mark.parametrize("block", ALL)
def test_every_block_and_field_is_described_in_the_form(block: type[Block]) -> None:
    assert block.get_block_type_slug().startswith("media-")
    assert (block._block_type_name or "").startswith("Media ")
    assert block.get_description()
    properties = block.model_json_schema()["properties"]
    own = [name for name in block.model_fields if not name.startswith("_")]
    assert own and [name for name in own if not properties[name].get("description")] == []


def test_slugs_are_unique() -> None:
    assert len({block.get_block_type_slug() for block in ALL}) == len(ALL)


def test_a_source_block_gives_the_engines_source() -> None:
    block = MediaSource(url=SecretStr(LINK), headers={"X-Api-Key": SecretStr("hdr-b82d")}, sha256="ab" * 32)
    assert block.source() == Source(
        url=SecretStr(LINK), headers={"X-Api-Key": SecretStr("hdr-b82d")}, sha256="sha256:" + "ab" * 32
    )
    assert MediaSource(url=SecretStr(LINK)).source() == Source(url=SecretStr(LINK))


@pytest.mark.parametrize("digest", ["AB" * 32, "sha256:" + "ab" * 32, "sha256:" + "AB" * 32])
def test_a_digest_is_taken_in_every_usual_form(digest: str) -> None:
    assert MediaSource(url=SecretStr(LINK), sha256=digest).source().sha256 == "sha256:" + "ab" * 32


@pytest.mark.parametrize(
    "wrong",
    [
        {"sha256": "12"},
        {"url": SecretStr("http://")},
        {"headers": {"Authorization": SecretStr("Bearer hdr-b82d\n")}},
        {"headers": {"X:": SecretStr("hdr-b82d")}},
        {"headers": {"Range": SecretStr("hdr-b82d")}},
        {"headers": {"Cookie": SecretStr("hdr-b82d"), "cookie": SecretStr("b")}},
        {"headers": {"authorization": SecretStr("hdr-b82d")}, "url": SecretStr("https://me:hdr-b82d@host/a")},
    ],
)
def test_a_source_block_that_cannot_be_asked_for_is_bad_input_and_repeats_no_secret(wrong: dict[str, Any]) -> None:
    block = MediaSource(**({"url": SecretStr(LINK)} | wrong))
    with pytest.raises(BadInput) as caught:
        block.source()
    assert "b82d" not in "".join(traceback.format_exception(caught.value))


def test_link_and_headers_of_a_source_block_are_secrets_to_pydantic_and_to_prefect() -> None:
    block = MediaSource(url=SecretStr(LINK), headers={"X-Api-Key": SecretStr("hdr-b82d")})
    assert isinstance(block.url, SecretStr) and all(isinstance(value, SecretStr) for value in block.headers.values())
    for shown in (
        repr(block),
        str(block),
        repr(block.source()),
        block.model_dump_json(),
        block.source().model_dump_json(),
    ):
        assert "tok-5f1c0a7e" not in shown and "hdr-b82d" not in shown
    assert {"url", "headers"} <= set(MediaSource.model_json_schema()["secret_fields"])


def test_a_store_block_gives_the_engines_store_settings(tmp_path: Path) -> None:
    assert MediaStore(home=tmp_path, unvalidated_trust_hours=2).settings() == StoreSettings(
        home=tmp_path, unvalidated_trust=timedelta(hours=2)
    )
    assert MediaStore(home=tmp_path).settings().unvalidated_trust == timedelta(hours=24)


def test_a_toolchain_block_gives_the_engines_tool_settings() -> None:
    block = MediaToolchain(ffmpeg="/usr/bin/ffmpeg", threads=3)
    assert block.settings() == ToolSettings(ffmpeg="/usr/bin/ffmpeg", threads=3)


def test_a_profile_block_gives_the_engines_order() -> None:
    assert MediaProfile(profile=ProfileName.MODERN, quality=Quality.P480).order() == Order(
        profile=ProfileName.MODERN, quality=Quality.P480
    )
    assert MediaProfile().order() == Order()


@pytest.mark.parametrize(
    ("block", "values"),
    [
        (MediaStore, {"home": "/m", "unvalidated_trust_hours": -1}),
        (MediaToolchain, {"threads": 0}),
        (MediaProfile, {"quality": "900p"}),
        (MediaSource, {}),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_by_the_form(block: type[Block], values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        block(**values)
