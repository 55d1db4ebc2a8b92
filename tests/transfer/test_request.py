"""What may be asked for: headers that can be sent, to one origin, and no message that repeats them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tidegate.errors import BadInput
from tidegate.transfer.paths import local_path
from tidegate.transfer.request import check_headers, check_headers_for, check_sha256, check_url

SECRET = "hdr-b82d"
ONE, OTHER = "https://host/a.mp4", "https://elsewhere/b.mp4"


def test_headers_are_taken_as_they_are_written_on_a_command_line() -> None:
    assert check_headers(["X-Key:a", "Cookie: b=c; d=e:f "]) == {"X-Key": "a", "Cookie": "b=c; d=e:f"}


@pytest.mark.parametrize(
    "lines",
    [
        [f"X-Key {SECRET}"],
        [f"X Key: {SECRET}"],
        [f": {SECRET}"],
        [f"X-Key: {SECRET}\nX: y"],
        [f"X-Key: {SECRET}\n"],
        [f"X-Key: {SECRET} ü"],
        [f"X-Key: {SECRET}", f"x-key: {SECRET}"],
        [f"X-Key: {SECRET}", f"X-Key: {SECRET}"],
    ],
)
def test_a_line_that_is_no_header_is_refused_and_not_repeated(lines: list[str]) -> None:
    with pytest.raises(BadInput) as caught:
        check_headers(lines)
    assert SECRET not in caught.value.message


@pytest.mark.parametrize(
    "name",
    ["Range", "if-range", "Accept-Encoding", "HOST", "Connection", "Content-Length", "Transfer-Encoding"],
)
def test_headers_that_the_transfer_sets_are_refused(name: str) -> None:
    with pytest.raises(BadInput, match=name.lower()):
        check_headers([f"{name}: x"])
    with pytest.raises(BadInput, match=name.lower()):
        check_headers_for({name: "x"}, [ONE])


@pytest.mark.parametrize("other", [OTHER, "http://host/a.mp4", "https://host:8443/a.mp4"])
def test_headers_for_more_than_one_origin_are_refused(other: str) -> None:
    with pytest.raises(BadInput, match="one origin"):
        check_headers_for({"X-Key": SECRET}, [ONE, other])
    check_headers_for({}, [ONE, other])


def test_headers_for_one_origin_and_for_files_beside_it_are_fine() -> None:
    check_headers_for({"X-Key": SECRET}, [ONE, "HTTPS://HOST:443/b.mp4", "file:///c.mp4"])
    check_headers_for({"Authorization": SECRET}, [ONE])


def test_an_authorization_beside_a_login_in_the_link_is_refused() -> None:
    with pytest.raises(BadInput, match="not both"):
        check_headers_for({"authorization": SECRET}, ["https://me:pw@host/a.mp4"])
    check_headers_for({"X-Key": SECRET}, ["https://me:pw@host/a.mp4"])


@pytest.mark.parametrize("text", ["AB" * 32, "sha256:" + "ab" * 32, "SHA256:" + "Ab" * 32, f" {'ab' * 32}\n"])
def test_a_digest_in_every_usual_form(text: str) -> None:
    assert check_sha256(text) == "ab" * 32


def test_a_path_of_any_bytes_becomes_a_link_and_comes_back(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9 #1.mp4"))
    path.write_bytes(b"x")
    url = check_url(str(path))
    assert url.isascii() and local_path(url) == path
    assert local_path(check_url(f"file://{tmp_path}/caf\udce9%20%231.mp4")) == path
    path.unlink()
    with pytest.raises(BadInput) as caught:
        check_url(str(path))
    caught.value.message.encode()


@pytest.mark.parametrize("url", ["file:///tmp/\ud800.mp4", "http://host/\udce9.mp4"])
def test_what_no_name_or_link_can_hold_is_bad_input(url: str) -> None:
    with pytest.raises(BadInput) as caught:
        check_url(url)
    caught.value.message.encode()
