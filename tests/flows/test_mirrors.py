"""Mirrors through the real command: a source that fails, falls silent or drips is helped out, and the whole is proven.

Both origins count their requests. Which bytes may be mixed is told in tests/transfer/test_places.py.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.flows.test_matrix import SIZE, assert_stored
from tests.support.clips import bulk_clip
from tests.support.command import Command
from tests.support.origin import Origin, Request, Resource

MIB = 1024 * 1024


def bodies(origin: Origin) -> list[Request]:
    return [request for request in origin.requests if not request.peek]


@pytest.mark.parametrize(
    ("story", "begins"),
    [
        pytest.param("2M stall", 3 * MIB),  # the first MiB was looked at
        pytest.param("2M drop, 404", 3 * MIB, marks=pytest.mark.slow),
        pytest.param("drip 200 after 2M", 3 * MIB, marks=pytest.mark.slow),
        pytest.param("500", MIB, marks=pytest.mark.slow),
    ],
)
@pytest.mark.slow
def test_with_a_digest_a_mirror_goes_on_with_the_bytes_that_are_here(
    story: str, begins: int, command: Command, clips: Path
) -> None:
    film = bulk_clip(clips, SIZE)
    digest = hashlib.sha256(film.read_bytes()).hexdigest()
    with (
        Origin({"film.mp4": Resource(film, story=story)}) as origin,
        Origin({"copy.mp4": Resource(film, etag="other")}) as mirror,
    ):
        words = ["--mirror", mirror.url("copy.mp4"), "--sha256", digest]
        ended = command.run(origin.url("film.mp4"), *words, "--until", "download")
        assert ended.code == 0, ended.stdout + ended.stderr
        assert len(bodies(origin)) == 1
        _, asked = mirror.requests  # the first asks what it has
        assert begins <= int(str(asked.range).removeprefix("bytes=").removesuffix("-")) < begins + 10_000
    assert_stored(command, film, digest)


@pytest.mark.slow
def test_without_a_digest_the_mirror_begins_at_zero_and_nothing_is_mixed(command: Command, clips: Path) -> None:
    film = bulk_clip(clips, SIZE)
    with (
        Origin({"film.mp4": Resource(film, story="2M drop, 500")}) as origin,
        Origin({"copy.mp4": Resource(film, etag="other")}) as mirror,
    ):
        ended = command.run(origin.url("film.mp4"), "--mirror", mirror.url("copy.mp4"), "--until", "download")
        assert ended.code == 0, ended.stdout + ended.stderr
        assert len(bodies(origin)) == 4, "the budget of the source is spent first"
        assert [request.range for request in bodies(mirror)] == [None]
    assert_stored(command, film, hashlib.sha256(film.read_bytes()).hexdigest())


@pytest.mark.slow
def test_a_copy_that_the_source_itself_names_helps_out(command: Command, clips: Path) -> None:
    film = bulk_clip(clips, SIZE)
    digest = hashlib.sha256(film.read_bytes()).hexdigest()
    with Origin({"copy.mp4": Resource(film, etag="other")}) as mirror:
        link = f'header Link=<{mirror.url("copy.mp4")}>;rel="duplicate"'
        with Origin({"film.mp4": Resource(film, story=f"2M stall {link}", digest="sha-256")}) as origin:
            ended = command.run(origin.url("film.mp4"), "--header", "Authorization: Bearer hidden")
            assert len(bodies(origin)) == 1
        assert ended.code == 0, ended.stdout + ended.stderr
        assert len(mirror.requests) == 2
        assert not any("authorization" in request.headers for request in mirror.requests)
    assert_stored(command, film, digest)
