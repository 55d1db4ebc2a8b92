"""Secrets of a run lie in a file that only its owner can read, and behind a reference that says nothing."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
from collections.abc import Collection, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from tidegate.durable.clearing import Removed
from tidegate.durable.owner import INITIAL_NAMESPACE, this_process
from tidegate.durable.secrets import SecretFiles, distinguish
from tidegate.errors import BadInput
from tidegate.model import Identity, Source

URL = "https://me:pw-77c3@host/film.mp4?token=tok-5f1c"
MIRROR = "https://mirror.example/film.mp4?token=mir-2ce4"
HEADERS = {"X-Api-Key": "hdr-b82d", "Cookie": "a=b; c=ü"}


@pytest.fixture
def kept(tmp_path: Path) -> SecretFiles:
    return SecretFiles(tmp_path / "home" / "secrets")


def test_what_was_kept_is_revealed_whole(kept: SecretFiles) -> None:
    source = kept.reveal(kept.keep(URL, HEADERS, [MIRROR]))
    assert source.url.get_secret_value() == URL
    assert {name: value.get_secret_value() for name, value in source.headers.items()} == HEADERS
    assert [mirror.get_secret_value() for mirror in source.mirrors] == [MIRROR]


def test_what_is_revealed_does_not_print(kept: SecretFiles) -> None:
    shown = repr(kept.reveal(kept.keep(URL, HEADERS, [MIRROR])))
    assert all(secret not in shown for secret in ("pw-77c3", "tok-5f1c", "hdr-b82d", "mir-2ce4"))


def test_only_the_owner_may_read_the_file_and_its_folder(kept: SecretFiles) -> None:
    reference = kept.keep(URL, HEADERS)
    (file,) = kept.root.iterdir()
    assert file.name == f"{reference}.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(kept.root.stat().st_mode) == 0o700


def test_references_are_random_and_tell_nothing(kept: SecretFiles) -> None:
    references = {kept.keep(URL, HEADERS) for _ in range(20)}
    assert len(references) == 20
    assert all(len(reference) == 16 and set(reference) <= set("0123456789abcdef") for reference in references)


def test_a_forgotten_secret_is_gone_and_forgetting_it_twice_does_no_harm(kept: SecretFiles) -> None:
    reference = kept.keep(URL, HEADERS)
    kept.forget(reference)
    kept.forget(reference)
    assert list(kept.root.iterdir()) == []
    with pytest.raises(BadInput, match="not on this host"):
        kept.reveal(reference)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff", b"[]", b'{"url": "http://host/"}', b'{"url": 1, "headers": {}}']
)
def test_a_torn_or_foreign_file_is_bad_input(content: bytes, kept: SecretFiles) -> None:
    reference = kept.keep(URL, HEADERS)
    (kept.root / f"{reference}.json").write_bytes(content)
    with pytest.raises(BadInput, match="not on this host"):
        kept.reveal(reference)


@pytest.mark.parametrize(
    "reference",
    [
        "",
        "../../outside/0123456789abcdef",
        "../0123456789abcdef",
        "/etc/passwd",
        "0123456789abcde",
        "0123456789abcdef0",
        "0123456789ABCDEF",
        "0123456789abcdef\n",
        "0123456789abcdef/../x",
        "0123456789abcde\0",
    ],
)
def test_nothing_but_a_reference_leads_to_a_file(reference: str, kept: SecretFiles, tmp_path: Path) -> None:
    kept.keep(URL, HEADERS)
    outside = tmp_path / "home" / "0123456789abcdef.json"
    outside.write_text('{"url": "http://host/", "headers": {}}')
    for touch in (kept.reveal, kept.forget):
        with pytest.raises(BadInput, match="16 hex"):
            touch(reference)
    assert outside.exists()


# --- what a killed command leaves -------------------------------------------------------------------

WEEK = timedelta(days=7)


def test_keeping_a_secret_takes_nobody_elses_away(kept: SecretFiles) -> None:
    with somebody_elses(kept) as theirs:
        pass
    mine = kept.keep(URL, HEADERS)
    assert names(kept) == {theirs, mine}, "an interrupted run may be resumed with it"


def test_what_a_killed_command_left_goes_and_a_living_ones_stays(kept: SecretFiles) -> None:
    mine = kept.keep(URL, HEADERS)
    with somebody_elses(kept) as theirs:
        assert swept(kept) == set()
        assert names(kept) == {mine, theirs}
    assert swept(kept) == {theirs}
    assert names(kept) == {mine}


def test_what_an_unfinished_attempt_refers_to_survives_its_owner_however_old_it_is(kept: SecretFiles) -> None:
    with somebody_elses(kept) as theirs:
        pass
    assert swept(kept, needed={theirs}, after=52 * WEEK) == set()
    assert kept.reveal(theirs).url.get_secret_value() == URL
    assert swept(kept) == {theirs}


def test_a_living_owners_secret_stays_however_old_it_is(kept: SecretFiles) -> None:
    kept.keep(URL, HEADERS)
    assert swept(kept, after=52 * WEEK) == set()


def test_what_was_written_after_somebody_looked_who_needs_what_stays(kept: SecretFiles) -> None:
    with somebody_elses(kept):
        pass
    assert swept(kept, after=-timedelta(minutes=1)) == set()


@pytest.mark.parametrize(
    ("change", "stays"),
    [
        ({"started": 1}, False),
        ({"boot": "an earlier one", "namespace": INITIAL_NAMESPACE}, False),
        ({"host": "another", "started": 1}, True),
        ({"namespace": 1, "started": 1}, True),
    ],
    ids=["another start", "another boot", "another host", "another container"],
)
def test_only_an_owner_that_is_certainly_gone_loses_its_secret_at_once(
    change: dict[str, object], stays: bool, kept: SecretFiles
) -> None:
    if "boot" in change and this_process().namespace != INITIAL_NAMESPACE:
        pytest.skip("in a container nobody knows of other boots")
    path = kept.root / f"{kept.keep(URL, HEADERS)}.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"owner": content["owner"] | change}))
    swept(kept)
    assert path.exists() == stays
    swept(kept, after=WEEK + timedelta(minutes=1))
    assert not path.exists(), "where nobody can know, time decides"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        json.dumps({"url": URL, "headers": HEADERS, "owner": None}).encode(),
        json.dumps({"url": URL, "headers": {}, "owner": {"host": "h", "boot": "b", "pid": 1, "started": 1}}).encode(),
    ],
    ids=["empty", "torn", "of nobody", "of an earlier version"],
)
def test_of_an_owner_that_cannot_be_read_age_decides(content: bytes, kept: SecretFiles) -> None:
    path = kept.root / f"{kept.keep(URL, HEADERS)}.json"
    path.write_bytes(content)
    assert swept(kept, after=WEEK - timedelta(minutes=1)) == set()
    assert swept(kept, needed={path.stem}, after=2 * WEEK) == set()
    assert swept(kept, after=WEEK + timedelta(minutes=1)) == {path.stem}


def test_a_half_written_secret_goes_after_an_hour(kept: SecretFiles) -> None:
    kept.keep(URL, HEADERS)
    half = kept.root / ".0123456789abcdef.json.01234567.tmp"
    half.write_bytes(b'{"url": "http://me:pw-77c3@')
    swept(kept, after=timedelta(minutes=59))
    assert half.exists()
    swept(kept, after=timedelta(minutes=61))
    assert not half.exists()


def test_the_key_and_what_is_not_ours_stay(kept: SecretFiles, tmp_path: Path) -> None:
    outside = tmp_path / "outside.json"
    outside.write_text("{}")
    kept.root.mkdir(parents=True)
    for name in ("identity.key", "notes.json", "0123456789abcdeg.json"):
        (kept.root / name).write_text("{}")
    (kept.root / "0123456789abcdef.json").symlink_to(outside)
    os.mkfifo(kept.root / "fedcba9876543210.json")
    before = names(kept)
    assert swept(kept, after=52 * WEEK) == set()
    assert names(kept) == before and outside.exists()


def test_there_need_not_be_any(kept: SecretFiles) -> None:
    assert swept(kept) == set()


@contextlib.contextmanager
def somebody_elses(kept: SecretFiles) -> Iterator[str]:
    """The reference of a secret whose owner lives until the end of the block, and is then killed."""
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(tell, kept.keep(URL, HEADERS).encode())
        signal.pause()
    try:
        yield os.read(told, 16).decode()
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(told)
        os.close(tell)


def swept(kept: SecretFiles, *, needed: Collection[str] = (), after: timedelta = timedelta(seconds=1)) -> set[str]:
    """The references that a sweep removes, some time from now."""
    removals = kept.sweep(needed, older_than=WEEK, now=datetime.now(UTC) + after)
    assert all(isinstance(removal, Removed) for removal in removals)
    return {removal.path.stem for removal in removals}


def names(kept: SecretFiles) -> set[str]:
    return {path.stem for path in kept.root.iterdir()}


# --- links that look alike --------------------------------------------------------------------------


def identity_of(url: str, headers: dict[str, str] | None = None, **given: Any) -> tuple[Identity, Source]:
    source = Source(url=SecretStr(url), headers={name: SecretStr(value) for name, value in (headers or {}).items()})
    return Identity(url=source.redacted, name="film.mp4", size_bytes=5, **given), source


def test_links_that_differ_only_in_a_secret_have_identities_of_their_own(tmp_path: Path) -> None:
    links = [f"http://host/film.mp4?ticket={number}" for number in (1, 2, 1)]
    one, two, again = (distinguish(*identity_of(link), tmp_path).key for link in links)
    assert one == again != two
    elsewhere = distinguish(*identity_of(links[0]), tmp_path / "other")
    assert elsewhere.key != one, "the hash is keyed by the home: nobody can guess tokens against it"


def test_cookies_tell_answers_of_one_link_apart(tmp_path: Path) -> None:
    keys = {
        distinguish(*identity_of("http://host/film", headers), tmp_path).key
        for headers in ({}, {"Cookie": "a"}, {"Cookie": "b"}, {"cookie": "b"})
    }
    assert len(keys) == 3


@pytest.mark.parametrize("given", [{"etag": '"one"'}, {"last_modified": "x"}, {"digests": ("sha256:00",)}])
def test_where_the_origin_tells_contents_apart_a_new_token_does_not(given: dict[str, Any], tmp_path: Path) -> None:
    identity, source = identity_of("http://host/film.mp4?token=1", {"Cookie": "a"}, **given)
    assert distinguish(identity, source, tmp_path) == identity


def test_a_link_without_secrets_needs_no_key(tmp_path: Path) -> None:
    identity, source = identity_of("http://host/film.mp4#part")
    assert distinguish(identity, source, tmp_path) == identity
    assert list(tmp_path.iterdir()) == []


def test_the_key_is_its_owners_alone_and_a_torn_one_is_made_again(tmp_path: Path) -> None:
    distinguish(*identity_of("http://host/film.mp4?token=1"), tmp_path / "secrets")
    key = tmp_path / "secrets" / "identity.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600 and len(key.read_bytes()) == 32
    key.write_bytes(b"torn")
    distinguish(*identity_of("http://host/film.mp4?token=1"), tmp_path / "secrets")
    assert len(key.read_bytes()) == 32
