"""Secrets of a run lie in a file that only its owner can read, and behind a reference that says nothing."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from tidegate.durable.secrets import SecretFiles
from tidegate.errors import BadInput

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
