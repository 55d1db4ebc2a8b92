"""Secrets of a run lie in a file that only its owner can read, and behind a reference that says nothing."""

from __future__ import annotations

import json
import os
import signal
import stat
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from tidegate.durable.secrets import SecretFiles, distinguished
from tidegate.errors import BadInput
from tidegate.model import Identity, Source

URL = "https://me:pw-77c3@host/film.mp4?token=tok-5f1c"
HEADERS = {"X-Api-Key": "hdr-b82d", "Cookie": "a=b; c=ü"}


@pytest.fixture
def kept(tmp_path: Path) -> SecretFiles:
    return SecretFiles(tmp_path / "home" / "secrets")


def test_what_was_kept_is_revealed_whole(kept: SecretFiles) -> None:
    url, headers = kept.reveal(kept.keep(URL, HEADERS))
    assert url.get_secret_value() == URL
    assert {name: value.get_secret_value() for name, value in headers.items()} == HEADERS


def test_what_is_revealed_does_not_print(kept: SecretFiles) -> None:
    shown = repr(kept.reveal(kept.keep(URL, HEADERS)))
    assert all(secret not in shown for secret in ("pw-77c3", "tok-5f1c", "hdr-b82d"))


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


def test_what_a_killed_command_left_goes_with_the_next_one_and_a_living_ones_stays(kept: SecretFiles) -> None:
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(tell, kept.keep(URL, HEADERS).encode())
        signal.pause()
    try:
        of_the_child = os.read(told, 16).decode()
        mine = kept.keep(URL, HEADERS)
        assert {path.stem for path in kept.root.iterdir()} == {of_the_child, mine}
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(told)
        os.close(tell)
    third = kept.keep(URL, HEADERS)
    assert {path.stem for path in kept.root.iterdir()} == {mine, third}


@pytest.mark.parametrize(
    ("change", "stays"),
    [({"started": 1}, False), ({"boot": "an earlier one"}, False), ({"host": "another", "started": 1}, True)],
)
def test_a_process_of_the_same_number_is_not_taken_for_the_owner(
    change: dict[str, object], stays: bool, kept: SecretFiles
) -> None:
    path = kept.root / f"{kept.keep(URL, HEADERS)}.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"owner": content["owner"] | change}))
    kept.keep(URL, HEADERS)
    assert path.exists() == stays


# --- links that look alike --------------------------------------------------------------------------


def identity_of(url: str, headers: dict[str, str] | None = None, **given: Any) -> tuple[Identity, Source]:
    source = Source(url=SecretStr(url), headers={name: SecretStr(value) for name, value in (headers or {}).items()})
    return Identity(url=source.redacted, name="film.mp4", size_bytes=5, **given), source


def test_links_that_differ_only_in_a_secret_have_identities_of_their_own(tmp_path: Path) -> None:
    links = [f"http://host/film.mp4?ticket={number}" for number in (1, 2, 1)]
    one, two, again = (distinguished(*identity_of(link), tmp_path).key for link in links)
    assert one == again != two
    elsewhere = distinguished(*identity_of(links[0]), tmp_path / "other")
    assert elsewhere.key != one, "the hash is keyed by the home: nobody can guess tokens against it"


def test_cookies_tell_answers_of_one_link_apart(tmp_path: Path) -> None:
    keys = {
        distinguished(*identity_of("http://host/film", headers), tmp_path).key
        for headers in ({}, {"Cookie": "a"}, {"Cookie": "b"}, {"cookie": "b"})
    }
    assert len(keys) == 3


@pytest.mark.parametrize("given", [{"etag": '"one"'}, {"last_modified": "x"}, {"digests": ("sha256:00",)}])
def test_where_the_origin_tells_contents_apart_a_new_token_does_not(given: dict[str, Any], tmp_path: Path) -> None:
    identity, source = identity_of("http://host/film.mp4?token=1", {"Cookie": "a"}, **given)
    assert distinguished(identity, source, tmp_path) == identity


def test_a_link_without_secrets_needs_no_key(tmp_path: Path) -> None:
    identity, source = identity_of("http://host/film.mp4#part")
    assert distinguished(identity, source, tmp_path) == identity
    assert list(tmp_path.iterdir()) == []


def test_the_key_is_its_owners_alone_and_a_torn_one_is_made_again(tmp_path: Path) -> None:
    distinguished(*identity_of("http://host/film.mp4?token=1"), tmp_path / "secrets")
    key = tmp_path / "secrets" / "identity.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600 and len(key.read_bytes()) == 32
    key.write_bytes(b"torn")
    distinguished(*identity_of("http://host/film.mp4?token=1"), tmp_path / "secrets")
    assert len(key.read_bytes()) == 32
