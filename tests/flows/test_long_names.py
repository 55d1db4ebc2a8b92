"""Names that no file can have, but a link may: the result gets a short name, and the run its end."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pytest

from tests.support.clips import clip
from tests.support.command import Command
from tests.support.origin import Origin, Resource

LONGEST_NAME = 255


def test_long_remote_names_are_shortened_and_published(command: Command, clips: Path) -> None:
    """In one batch: bytes beyond a file name's limit, characters of several bytes cut in no middle, and names that an
    origin gives in a header."""
    film = clip(clips)
    names = {
        "ascii": "a" * 2000 + ".mp4",
        "several bytes": "映画と音楽" * 60 + ".mp4",
        "letters with marks": "é" * 300 + ".mp4",
    }
    given = f"always: header Content-Disposition=attachment;filename*=UTF-8''{quote('長' * 300)}.mp4"
    asked = [*map(quote, names.values()), "film"]
    with Origin({**dict.fromkeys(asked, film), "film": Resource(film, story=given)}) as origin:
        links = [origin.url(name) for name in asked]
        ended = command.run("-", stdin="\n".join(links).encode())
    results = ended.document["results"]
    failures = [(one["failure"] or {}).get("message") for one in results]
    assert failures == [None] * len(links)
    folders = command.published()
    assert len(folders) == len(links)
    for path in (path for folder in folders for path in (folder, *folder.rglob("*"))):
        assert len(path.name.encode()) <= LONGEST_NAME // 2, path.name


def test_links_that_no_server_can_be_asked_for_end_with_a_typed_error(command: Command) -> None:
    """Each gets past the first look, and is told by whoever cannot use it."""
    links = {
        f"http://{'a' * 64}.invalid/film.mp4": "connection_failed",
        "http://bücher.invalid/film.mp4": "connection_failed",
        "http://..invalid/film.mp4": "connection_failed",
        f"http://127.0.0.1:9/{'a' * 60_000}": "connection_failed",
        "http://[::1%25lo]:9/film.mp4": "connection_failed",
        "http://me:hunter2@127.0.0.1:9/film.mp4": "connection_failed",
    }
    ended = command.run("-", stdin="\n".join(links).encode())
    assert ended.code == 1 and "Traceback" not in ended.stderr and "hunter2" not in ended.stdout + ended.stderr
    types = [one["failure"]["type"] for one in ended.document["results"]]
    assert types == list(links.values())


@pytest.mark.parametrize(
    ("folder", "says"),
    [("o" * 300, "300 bytes"), ("/ö" * 1500, "4500 bytes"), ("/o" * 1900, "3800 bytes")],
    ids=["name", "path", "no room for our own names"],
)
def test_an_output_folder_that_cannot_be_is_refused_before_any_work(
    folder: str, says: str, command: Command, clips: Path
) -> None:
    command.output = Path(folder)
    ended = command.run(str(clip(clips)))
    assert ended.code == 2 and says in ended.failure["message"] and ended.failure["type"] == "bad_input"
    assert not (command.home / "tidegate").exists()


def test_a_home_that_is_too_long_is_refused_and_the_output_folder_not_left_behind(
    command: Command, clips: Path
) -> None:
    command.environment["TIDEGATE_HOME"] = str(command.home / ("h" * 300))
    ended = command.run(str(clip(clips)))
    assert (
        ended.code == 2
        and "TIDEGATE_HOME is not valid: Value error, it holds a name of 300 bytes" in ended.failure["message"]
    )
    assert not command.output.exists()
