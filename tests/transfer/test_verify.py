"""What is refused by its first bytes, and what is left to the demuxers; digests of whole files."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from tests.support import clips as clip_recipes
from tests.support.clips import clip
from tidegate.errors import NotMedia, UnsupportedSource, WrongDigest
from tidegate.transfer.verify import SNIFF_BYTES, check_digests, refuse_text


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"<!DOCTYPE html><html><body>Sign in</body></html>",
        b"\xef\xbb\xbf\r\n  <HTML>",
        b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>",
        b'{"error": "not found"}',
        b"404 Not Found\n",
        "Zugriff verweigert: Schlüssel ungültig".encode(),
        ("ü" * SNIFF_BYTES).encode(),
        b"a\xc3",
    ],
)
def test_nothing_markup_and_text_are_no_media(head: bytes) -> None:
    with pytest.raises(NotMedia):
        refuse_text(head, "video/mp4")


def test_a_refusal_says_what_it_was_called_and_repeats_no_byte_of_it() -> None:
    """An origin may echo the token that it was sent."""
    for head in (b"<html>tok-5f1c</html>", b"tok-5f1c is not valid"):
        with pytest.raises(NotMedia, match="text/html") as caught:
            refuse_text(head, "text/html")
        assert str(caught.value).startswith("The server sent ")
        assert "tok-5f1c" not in f"{caught.value.message} {caught.value.evidence}"


def test_a_page_that_is_called_a_video_is_told_as_what_was_said_and_what_was_sent() -> None:
    with pytest.raises(NotMedia, match="The server says video/mp4 but sent a web page"):
        refuse_text(b"<html></html>", "video/mp4")


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "a PNG picture"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF\0", "a JPEG picture"),
        (b"RIFF\x24\0\0\0WEBPVP8 ", "a WebP picture"),
        (b"%PDF-1.7\n%\xe2\xe3", "a PDF document"),
        (b"PK\x03\x04\x14\0", "a ZIP archive"),
        (b"\x1f\x8b\x08\0", "a gzip archive"),
    ],
)
def test_pictures_documents_and_archives_are_refused_by_name(head: bytes, name: str) -> None:
    with pytest.raises(NotMedia, match=f"The source is {name}, not media"):
        refuse_text(head + bytes(512))


def test_a_sound_file_that_begins_like_a_webp_picture_is_let_through() -> None:
    refuse_text(b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0" + bytes(512))


@pytest.mark.parametrize("head", [b"#EXTM3U\n#EXT-X-VERSION:3\n", b"\xef\xbb\xbf#EXTM3U\r\n"])
def test_a_playlist_is_told_apart_from_text(head: bytes) -> None:
    with pytest.raises(UnsupportedSource, match="playlist"):
        refuse_text(head)


@pytest.mark.parametrize("name", clip_recipes.RECIPES)
def test_every_real_clip_passes_whole_and_cut_anywhere(name: str, clips: Path) -> None:
    seconds = 12 if name == "h264_faults_mp4" else 1
    begin = clip(clips, name, seconds=seconds).read_bytes()[:SNIFF_BYTES]
    for length in (16, 100, SNIFF_BYTES):
        refuse_text(begin[:length])


@given(st.binary(max_size=2 * SNIFF_BYTES))
def test_any_bytes_are_either_refused_with_a_reason_or_let_through(head: bytes) -> None:
    try:
        refuse_text(head)
    except (NotMedia, UnsupportedSource) as failure:
        assert failure.message


def test_right_digests_give_the_address_and_wrong_ones_are_named(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"media" * 1000)
    sha256, md5 = (f"{name}:{hashlib.new(name, path.read_bytes()).hexdigest()}" for name in ("sha256", "md5"))
    address = f"blake3:{blake3(path.read_bytes()).hexdigest()}"
    assert check_digests(path, frozenset({sha256, md5}), lambda: None) == address
    with pytest.raises(WrongDigest, match="promised was sha256:00") as caught:
        check_digests(path, frozenset({md5, f"sha256:{'0' * 64}"}), lambda: None)
    assert sha256 in caught.value.message


def test_hashing_can_be_given_up_between_blocks(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")

    def cancelled() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check_digests(path, frozenset(), cancelled)
