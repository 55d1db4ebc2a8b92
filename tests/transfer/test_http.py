"""What the headers of an origin mean: read from data, and against real answers where the wire decides."""

from __future__ import annotations

import math
import subprocess
import sys
import traceback
from email.utils import formatdate

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from tests.support.origin import Origin, Resource
from tests.transfer.scripted import Scripted, head, identified, part_of, read_from
from tidegate.errors import BadInput, ConnectionFailed, Evidence, RangeMismatch, RedirectLoop
from tidegate.model import Source
from tidegate.settings import TransferSettings
from tidegate.transfer.asking.answers import (
    ambiguous_digests,
    begins_at,
    digests,
    file_name,
    retry_after_seconds,
    total_bytes,
)
from tidegate.transfer.file.http import HttpExchange
from tidegate.transfer.transport.base import Headers

NOW = 1_700_000_000.0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120.0),
        (" 5 ", 5.0),
        ("0", 0.0),
        (formatdate(NOW + 90, usegmt=True), 90.0),
        (formatdate(NOW - 90, usegmt=True), 0.0),
        (None, None),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("²", None),
    ],
)
def test_retry_after_in_both_forms_and_in_neither(value: str | None, seconds: float | None) -> None:
    assert retry_after_seconds(value, NOW) == seconds


@given(st.text(max_size=40) | st.text("0123456789", max_size=400))
def test_no_retry_after_breaks_the_reader_or_waits_for_ever(value: str) -> None:
    seconds = retry_after_seconds(value, NOW)
    assert seconds is None or (seconds >= 0 and math.isfinite(seconds))


SHA = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
MD5, MD5_HEX = "1B2M2Y8AsgTpgAmY7PhCfg==", "md5:d41d8cd98f00b204e9800998ecf8427e"
OTHER_MD5 = "AAAAAAAAAAAAAAAAAAAAAA=="
SHA_HEX = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.mark.parametrize(
    ("headers", "whole", "taken"),
    [
        ({"Repr-Digest": f"sha-256=:{SHA}:"}, True, {SHA_HEX}),
        ({"Repr-Digest": f"sha-256=:{SHA}:"}, False, {SHA_HEX}),
        ({"Digest": f"SHA-256={SHA}"}, True, {SHA_HEX}),
        ({"Digest": f"SHA-256={SHA}"}, False, set()),
        ({"Content-Digest": f"sha-256=:{SHA}:"}, True, {SHA_HEX}),
        ({"Content-Digest": f"sha-256=:{SHA}:"}, False, set()),
        ({"Content-MD5": MD5}, True, {MD5_HEX}),
        ({"Content-MD5": MD5}, False, set()),
        ({"Digest": f"SHA-256={SHA},MD5={MD5}"}, True, {SHA_HEX, MD5_HEX}),
        ({"Digest": f"SHA-256={SHA},MD5={MD5}", "Content-MD5": OTHER_MD5}, True, {SHA_HEX}),
        ({"Repr-Digest": f"unixsum=:aGk=:, sha-256=:{SHA}:"}, True, {SHA_HEX}),
        ({"Repr-Digest": "sha-256=:not base64!:"}, True, set()),
        ({"Repr-Digest": "sha-256=::"}, True, set()),
        ({"Repr-Digest": "sha-256=:c2hvcnQ=:"}, True, set()),
        ({"Digest": f"SHA-256={SHA_HEX.removeprefix('sha256:')}"}, True, set()),
        ({}, True, set()),
    ],
)
def test_only_digests_of_the_whole_file_are_taken(headers: dict[str, str], whole: bool, taken: set[str]) -> None:
    assert set(digests(Headers(headers), whole=whole)) == taken


@pytest.mark.parametrize(
    ("headers", "claimed"),
    [
        ({"Digest": f"SHA-256={SHA}"}, (SHA_HEX,)),
        ({"Content-MD5": MD5}, (MD5_HEX,)),
        ({"Digest": f"md5={MD5}", "Content-MD5": OTHER_MD5}, ()),
        ({"Content-Digest": f"sha-256=:{SHA}:"}, ()),
    ],
)
def test_what_may_be_of_the_whole_or_of_a_part_is_a_claim(headers: dict[str, str], claimed: tuple[str, ...]) -> None:
    assert ambiguous_digests(Headers(headers)) == claimed


@pytest.mark.parametrize(
    "told", ["bytes 1-9/10", "bytes */10", "bytes 5-", "items 0-9/10", "bytes 0-9", "", "bytes -5-9/10"]
)
def test_a_partial_answer_that_does_not_begin_where_it_was_asked_is_refused(told: str) -> None:
    with pytest.raises(RangeMismatch):
        begins_at(206, Headers({"Content-Range": told}), 5, Evidence())


def test_a_partial_answer_at_the_right_place_is_taken_and_a_whole_one_begins_at_zero() -> None:
    assert begins_at(206, Headers({"Content-Range": "bytes 5-9/10"}), 5, Evidence()) == 5
    assert begins_at(206, Headers({"Content-Range": "bytes 5-9/*"}), 5, Evidence()) == 5
    assert begins_at(200, Headers(), 5, Evidence()) == 0


@pytest.mark.parametrize(
    ("status", "headers", "total"),
    [
        (206, {"Content-Range": "bytes 5-9/10", "Content-Length": "5"}, 10),
        (206, {"Content-Range": "bytes 5-9/*", "Content-Length": "5"}, None),
        (416, {"Content-Range": "bytes */10", "Content-Length": "20"}, 10),
        (200, {"Content-Length": "10"}, 10),
        (200, {}, None),
        (206, {"Content-Length": "5"}, None),
        (206, {"Content-Range": f"bytes 0-9/{'9' * 5000}", "Content-Length": "10"}, None),
    ],
)
def test_the_size_of_the_whole_is_not_mistaken_for_that_of_the_answer(
    status: int, headers: dict[str, str], total: int | None
) -> None:
    assert total_bytes(status, Headers(headers)) == total


@pytest.mark.parametrize(
    ("disposition", "url", "name"),
    [
        ("", "http://origin/a/b%20c.mp4?x=1", "b c.mp4"),
        ('attachment; filename="film.mkv"', "http://origin/download", "film.mkv"),
        ("attachment; filename*=UTF-8''f%C3%BCr.mkv", "http://origin/download", "für.mkv"),
        ("attachment; filename*=idna''x%ff", "http://origin/b.mp4", "b.mp4"),
        (f"attachment; filename*{'9' * 5000}=b", "http://origin/b.mp4", "b.mp4"),
        ("", "http://origin/", "origin"),
    ],
)
def test_a_name_for_people_comes_from_the_origin_or_the_link(disposition: str, url: str, name: str) -> None:
    assert file_name(Headers({"Content-Disposition": disposition}), url) == name


@pytest.mark.parametrize("url", ["http://origin:99999/x", "http://origin:port/x", "http://[bad/x", "http://"])
def test_a_link_that_is_none_is_bad_input(url: str) -> None:
    with pytest.raises(BadInput):
        anyio.run(HttpExchange(Source(url=SecretStr(url)), TransferSettings(request_timeout=1)).identify)


@pytest.mark.parametrize(
    "location",
    [
        "http://origin:99999/x",
        "http://[bad",
        "ftp://origin/x",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "mailto:me@origin",
    ],
)
def test_a_redirect_to_nowhere_is_refused_and_followed_by_nobody(location: str) -> None:
    with Origin({"clip.mp4": Resource(b"x", story=f"always: redirect {location}")}) as origin:
        with pytest.raises(RedirectLoop):
            anyio.run(HttpExchange(Source(url=SecretStr(origin.url("clip.mp4"))), TransferSettings()).identify)
        assert len(origin.requests) == 1


@pytest.mark.parametrize("status", [300, 301, 304, 305])
def test_a_redirect_without_a_place_to_go_is_asked_for_once(status: int) -> None:
    with Scripted(lambda _: iter([head(status, {"Content-Length": "0"})])) as origin:
        with pytest.raises(RedirectLoop, match=str(status)):
            anyio.run(HttpExchange(Source(url=SecretStr(origin.url("clip.mp4"))), TransferSettings()).identify)
        assert len(origin.seen) == 1


@pytest.mark.parametrize("value", ["Bearer hdr-b82d\n", "hdr-b82d\r\nX: y", "hdr-b82d ü", "\x00hdr-b82d"])
def test_a_header_that_cannot_be_sent_is_repeated_nowhere(value: str) -> None:
    with Origin({"clip.mp4": b"abc"}) as origin:
        source = Source(url=SecretStr(origin.url("clip.mp4")), headers={"Authorization": SecretStr(value)})
        with pytest.raises(BadInput) as caught:
            anyio.run(HttpExchange(source, TransferSettings()).identify)
    told = "".join(traceback.format_exception(caught.value))
    assert "b82d" not in told + str(caught.value.evidence)


def test_an_answer_that_is_no_http_is_repeated_nowhere() -> None:
    echo = b"HTTP/1.1 200 OK\r\ntok-5f1c is not valid\r\n\r\n"
    with Scripted(lambda _: iter([echo])) as origin, pytest.raises(ConnectionFailed) as caught:
        anyio.run(HttpExchange(Source(url=SecretStr(origin.url("clip.mp4"))), TransferSettings()).identify)
    assert "tok-5f1c" not in "".join(traceback.format_exception(caught.value))


def test_no_library_underneath_logs_a_link_at_info() -> None:
    code = (
        "import logging, sys; logging.basicConfig(level=logging.INFO, stream=sys.stdout)\n"
        "import anyio; from pydantic import SecretStr; from tidegate.model import Source\n"
        "from tidegate.settings import TransferSettings; from tidegate.transfer.file.http import HttpExchange\n"
        "anyio.run(HttpExchange(Source(url=SecretStr(sys.argv[1])), TransferSettings()).identify)\n"
        "print('asked')"
    )
    with Origin({"clip.mp4": b"abc"}) as origin:
        link = origin.url("clip.mp4") + "?token=tok-5f1c"
        done = subprocess.run([sys.executable, "-c", code, link], capture_output=True, text=True, timeout=60)
        assert origin.requests
    assert "asked" in done.stdout
    assert "tok-5f1c" not in done.stdout + done.stderr


def test_an_unknown_host_is_a_connection_failure_without_a_secret_in_it() -> None:
    source = Source(url=SecretStr("http://user:hidden@no-such-host.invalid/x.mp4?token=hidden"))
    with pytest.raises(ConnectionFailed) as caught:
        anyio.run(HttpExchange(source, TransferSettings(request_timeout=5)).identify)
    assert "no-such-host.invalid" in caught.value.message
    assert "hidden" not in caught.value.message + str(caught.value.evidence)


def test_the_evidence_of_a_refusal_has_its_status_and_no_secret() -> None:
    with Origin({"clip.mp4": Resource(b"x", story="always: 403")}) as origin:
        source = Source(url=SecretStr(origin.url("clip.mp4") + "?token=hidden&part=2"))
        with pytest.raises(Exception) as caught:
            anyio.run(HttpExchange(source, TransferSettings()).identify)
    evidence = caught.value.evidence  # type: ignore[attr-defined]
    assert evidence.status == 403
    assert evidence.url.endswith("?token=REDACTED&part=2")


def test_an_exchange_that_was_given_up_before_it_began_fails_and_leaves_no_socket(nothing_left: None) -> None:
    with Origin({"clip.mp4": b"abc"}) as origin:
        exchange = HttpExchange(Source(url=SecretStr(origin.url("clip.mp4"))), TransferSettings())
        exchange.abort()
        with pytest.raises(ConnectionFailed):
            anyio.run(exchange.identify)


def test_a_validator_that_no_header_may_hold_is_compared_and_not_sent_back() -> None:
    whole = b"0123456789"
    with Scripted(lambda asked: iter([part_of(whole, asked, {"ETag": '"café"'})])) as origin:
        source, limits = Source(url=SecretStr(origin.url("clip.mp4"))), TransferSettings()
        identity = identified(HttpExchange(source, limits))
        assert identity.etag
        assert read_from(HttpExchange(source, limits), 5, identity) == whole[5:]
        assert not any("if-range" in asked for asked in origin.seen)
