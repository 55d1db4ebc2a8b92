"""A file on this host as a source: read with the care of a remote one, never changed, never linked."""

from __future__ import annotations

import os
import stat
from functools import partial
from pathlib import Path

import anyio
import pytest
from pydantic import SecretStr

from tests.transfer.scripted import identified, read_from
from tidegate.errors import NotFound, NotMedia, SourceChanged, TidegateError, UnsupportedSource
from tidegate.events import ignore_events
from tidegate.model import Source
from tidegate.settings import TransferSettings
from tidegate.transfer.file.fetch import identify
from tidegate.transfer.file.part import Part
from tidegate.transfer.file.transfer import Transfer
from tidegate.transfer.paths import local_path
from tidegate.transfer.resolvers import resolver_for
from tidegate.transfer.resolvers.local import LocalExchange

pytestmark = pytest.mark.usefixtures("nothing_left")

MIB = 1024 * 1024
CONTENT = bytes(range(256)) * 20_000


@pytest.fixture
def film(tmp_path: Path) -> Path:
    path = tmp_path / "a film, 100 % #1.mp4"
    path.write_bytes(CONTENT)
    return path


def source(path: Path) -> Source:
    return Source(url=SecretStr(path.as_uri()))


def copied(path: Path, folder: Path, limits: TransferSettings) -> Path:
    async def run() -> Path:
        connect = partial(LocalExchange, source(path))
        identity, _ = await identify(connect, limits, ignore_events)
        part = Part.open(folder, identity, limits)
        try:
            await Transfer(connect, part, limits, ignore_events).run()
            assert not part.end_is_certain, "a file on disk does not say how long it was meant to be"
        finally:
            part.close()
        return part.path

    return anyio.run(run)


def test_a_file_is_copied_byte_for_byte_and_left_as_it_was(
    film: Path, tmp_path: Path, limits: TransferSettings
) -> None:
    film.chmod(0o444)
    before = film.stat()
    made = copied(film, tmp_path, limits)
    after = film.stat()
    assert made.read_bytes() == CONTENT
    assert made.stat().st_ino != after.st_ino
    assert (before.st_mtime_ns, before.st_mode, before.st_nlink) == (after.st_mtime_ns, after.st_mode, after.st_nlink)


def test_a_file_url_names_its_path_whatever_is_in_it(film: Path) -> None:
    assert local_path(film.as_uri()) == film


def test_a_file_that_changed_since_it_was_identified_is_refused(film: Path) -> None:
    exchange = LocalExchange(source(film))
    identity = identified(exchange)
    os.utime(film, ns=(1, 1))
    with pytest.raises(SourceChanged):
        read_from(LocalExchange(source(film)), 0, identity)


def test_a_file_replaced_by_one_of_the_same_size_and_time_is_refused(film: Path, tmp_path: Path) -> None:
    identity = identified(LocalExchange(source(film)))
    other = tmp_path / "other"
    other.write_bytes(CONTENT)
    os.utime(other, ns=(film.stat().st_atime_ns, film.stat().st_mtime_ns))
    other.replace(film)
    with pytest.raises(SourceChanged):
        read_from(LocalExchange(source(film)), 0, identity)


def test_a_file_rewritten_in_place_with_its_time_set_back_is_refused(film: Path) -> None:
    """As `rsync --inplace -t` does."""
    identity = identified(LocalExchange(source(film)))
    before = film.stat()
    with film.open("r+b") as file:
        file.write(b"other")
    os.utime(film, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert identified(LocalExchange(source(film))).key != identity.key
    with pytest.raises(SourceChanged):
        read_from(LocalExchange(source(film)), 0, identity)


def test_a_name_that_is_no_utf8_is_read_and_told_printably(tmp_path: Path, limits: TransferSettings) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.mp4"))
    path.write_bytes(CONTENT)
    identity = identified(LocalExchange(source(path)))
    assert identity.name == "caf\ufffd.mp4" and identity.url.endswith("/caf%E9.mp4")
    assert identity.model_validate_json(identity.model_dump_json()) == identity
    assert copied(path, tmp_path, limits).read_bytes() == CONTENT
    path.unlink()
    with pytest.raises(NotFound, match="caf\ufffd"):
        identified(LocalExchange(source(path)))


@pytest.mark.parametrize("change", ["grows", "shrinks"])
def test_a_file_that_changes_while_it_is_read_is_noticed_at_the_end(change: str, film: Path) -> None:
    exchange = LocalExchange(source(film))

    def meanwhile() -> None:
        with film.open("r+b") as file:
            file.seek(0, os.SEEK_END)
            file.write(b"more") if change == "grows" else file.truncate(MIB + 1)

    with pytest.raises(SourceChanged):
        read_from(exchange, 0, identified(exchange), between=meanwhile)


def test_a_file_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"gone\.mp4"):
        identified(LocalExchange(source(tmp_path / "gone.mp4")))


def test_an_empty_file_is_no_media(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(NotMedia):
        identified(LocalExchange(source(tmp_path / "empty.mp4")))


def test_a_pipe_is_refused_at_once_instead_of_waiting_for_a_writer(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.mp4"
    os.mkfifo(pipe)
    with pytest.raises(NotMedia):
        identified(LocalExchange(source(pipe)))
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_folder_or_a_device_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, Path("/dev/zero")):
        with pytest.raises(TidegateError):
            exchange = LocalExchange(source(path))
            identity = identified(exchange)
            read_from(exchange, 0, identity)


def test_a_read_that_was_given_up_ends(film: Path) -> None:
    exchange = LocalExchange(source(film))
    with pytest.raises(TidegateError):
        read_from(exchange, 0, identified(exchange), between=exchange.abort)


def test_a_source_that_nobody_handles_is_unsupported() -> None:
    with pytest.raises(UnsupportedSource, match="gopher"):
        resolver_for(Source(url=SecretStr("gopher://origin/film.mp4")))


def test_each_scheme_has_its_resolver(film: Path) -> None:
    names = [resolver_for(Source(url=SecretStr(url))).name for url in ("http://o/x", "HTTPS://o/x", film.as_uri())]
    assert names == ["direct", "direct", "local"]
