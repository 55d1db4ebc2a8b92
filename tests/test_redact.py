"""No secret of a URL survives redaction, whatever the URL looks like, and what is no secret does."""

from __future__ import annotations

from urllib.parse import urlencode

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tidegate.redact import REDACTED, has_secret, redact_text, redact_url

SECRET = "s3cr3t-5f1c0a7e"

SIGNED = {
    "S3, version 4": {
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Credential": f"{SECRET}/20260101/eu-west-1/s3/aws4_request",
        "X-Amz-Security-Token": SECRET,
        "X-Amz-Signature": SECRET,
    },
    "S3, version 2": {"AWSAccessKeyId": SECRET, "Expires": "1767225600", "Signature": SECRET},
    "GCS": {"X-Goog-Credential": SECRET, "X-Goog-Expires": "900", "X-Goog-Signature": SECRET},
    "Azure": {"sv": "2024-11-04", "se": "2026-01-01T00:00:00Z", "sr": "b", "sp": "r", "sig": SECRET},
    "CloudFront": {"Policy": SECRET, "Key-Pair-Id": SECRET, "Signature": SECRET},
    "Akamai": {"hdnts": f"exp=1~acl=/*~hmac={SECRET}"},
    "tokens": {"access_token": SECRET, "api_key": SECRET, "apikey": SECRET, "jwt": SECRET, "auth": SECRET},
    "short names": dict.fromkeys(
        ["key", "pass", "ticket", "md5", "hash", "PHPSESSID", "code", "credential", "credentials", "bearer"], SECRET
    ),
    "sessions": dict.fromkeys(("auth", "authorization", "session", "sessionid", "session_token"), SECRET),
    "logins": {"password": SECRET, "pwd": SECRET, "session_id": SECRET, "client_secret": SECRET, "TOKEN": SECRET},
}

names = st.sampled_from(["a", "q", "v", "token", "X-Amz-Signature", "sig", "ü", "a b", ""])
queries = st.lists(st.tuples(names, st.text(max_size=8)), max_size=4).map(urlencode)
hosts = st.sampled_from(["host", "host:8080", "[::1]:80", "me:pw@host", "me@host", ""])
urls = st.builds(
    "{}://{}{}?{}#{}".format,
    st.sampled_from(["http", "HTTPS", "rtmp", "file", "s3"]),
    hosts,
    st.text(max_size=12),
    queries | st.text(max_size=12),
    st.text(max_size=4),
)
anything = st.text(st.characters(exclude_categories=()), max_size=60)
"""Lone surrogates too: a command line of invalid bytes holds them."""


@pytest.mark.parametrize("provider", SIGNED)
def test_a_signed_link_loses_its_credentials_and_keeps_the_rest(provider: str) -> None:
    told = redact_url("https://bucket.example/films/film.mp4?part=3&" + urlencode(SIGNED[provider]))
    assert SECRET not in told and SECRET[:6] not in told
    assert told.startswith("https://bucket.example/films/film.mp4?part=3&") and REDACTED in told
    assert has_secret("https://bucket.example/film.mp4?" + urlencode(SIGNED[provider]))


def test_the_validity_of_a_signed_link_goes_too_so_that_its_key_stays_the_same() -> None:
    today, tomorrow = (f"https://host/a.mp4?Expires={when}&Signature={when}" for when in (1767225600, 1767312000))
    assert redact_url(today) == redact_url(tomorrow)


@pytest.mark.parametrize("scheme", ["http", "https", "HTTPS", "ftp", "rtmp", "sftp"])
@pytest.mark.parametrize("login", [f"me:{SECRET}", SECRET, f"me:{SECRET}@work", f":{SECRET}"])
def test_user_info_goes_and_host_and_port_stay(scheme: str, login: str) -> None:
    url = f"{scheme}://{login}@host:8080/film.mp4"
    assert redact_url(url) == f"{scheme.lower()}://host:8080/film.mp4"
    assert has_secret(url)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        (
            f"https://x/?url=https%3A%2F%2Fy%2F%3Ftoken%3D{SECRET}%26a%3D1",
            f"https://x/?url=https://y/%3Ftoken%3D{REDACTED}%26a%3D1",
        ),
        (f"https://x/?url=http://me:{SECRET}@y/film.mp4", "https://x/?url=http://y/film.mp4"),
        (f"https://x/?a=1;token={SECRET}", f"https://x/?a=1%3Btoken%3D{REDACTED}"),
        (f"https://x/film.mp4;jsessionid={SECRET}?a=1", f"https://x/film.mp4;jsessionid={REDACTED}?a=1"),
        (f"https://x/hdnts=exp=1~hmac={SECRET}/film.m3u8", f"https://x/hdnts={REDACTED}/film.m3u8"),
    ],
)
def test_a_secret_within_a_value_or_in_the_path_goes(url: str, told: str) -> None:
    assert redact_url(url) == told
    assert has_secret(url)


def test_links_within_links_without_end_go_as_a_whole() -> None:
    url = f"http://x/?token={SECRET}"
    for _ in range(500):
        url = f"http://x/?a={url}"
    assert SECRET not in redact_url(url) and has_secret(url)


@pytest.mark.parametrize("piece", ["/", ";", "/token", "/a=1", ";token", "token"])
@pytest.mark.timeout(20)
def test_a_long_path_is_no_work(piece: str) -> None:
    """Of a server's choosing: what is quadratic in it takes minutes."""
    assert redact_url("https://host/" + piece * 100_000).startswith("https://host/")


def test_a_fragment_goes() -> None:
    assert redact_url(f"https://host/film.mp4#access_token={SECRET}") == "https://host/film.mp4"


@pytest.mark.parametrize(
    "plain",
    [
        "https://host/film.mp4",
        "http://host:80/a/b.mkv?v=2&lang=de",
        "/media/film #2?.mp4",
        "film.mp4",
        "file:///a?token=b",
        "https://host/token/films/date=2026/film.mp4",
        "https://host/film.mp4?author=alice&authority=bfi&sessions=2&keyframe=1&encode=h264&passage=3&decoder=1",
    ],
)
def test_what_holds_no_secret_stays_as_it_is(plain: str) -> None:
    assert redact_url(plain) == plain


@given(urls | anything)
@example("http:////host/a")
@example("http://host/?a=\ud800&\ud800=b")
@example("http://h/?a=1;b=2&&=&c")
def test_redacting_twice_is_redacting_once(url: str) -> None:
    once = redact_url(url)
    assert redact_url(once) == once


@given(queries, st.sampled_from(["token", "X-Amz-Signature", "sig", "Policy", "api-key"]))
def test_a_secret_between_any_other_values_is_found(query: str, name: str) -> None:
    assert SECRET not in redact_url(f"https://host/a?{query}&{name}={SECRET}&{query}")


@given(anything | urls)
@example("http://[")
@example("http://[::1/film.mp4?token=a")
@example("http://host:99999999/")
@example("http://ho\u2100st/")
def test_no_text_makes_redaction_raise(text: str) -> None:
    redact_url(text)
    redact_text(text)
    has_secret(text)


@given(anything | urls)
@example("/media/caf\udce9.mp4")
@example("http://host/caf\udce9?a=\udce9")
def test_what_is_redacted_can_always_be_written_down(text: str) -> None:
    redact_url(text).encode()
    redact_text(text).encode()


def test_a_url_that_cannot_be_taken_apart_is_hidden_whole() -> None:
    assert redact_url(f"http://[?token={SECRET}") == REDACTED
    assert has_secret(f"http://[?token={SECRET}")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"[https @ 0x1] GET http://me:{SECRET}@host/a failed", "[https @ 0x1] GET http://host/a failed"),
        (f"'https://host/a?sig={SECRET}': 403", f"'https://host/a?sig={REDACTED}': 403"),
        (f'open "https://host/a?sig={SECRET}" now', f'open "https://host/a?sig={REDACTED}" now'),
        (f"<https://host/a#{SECRET}>", "<https://host/a>"),
        (f"one http://host/?token={SECRET}\ntwo", f"one http://host/?token={REDACTED}\ntwo"),
        (f"rtmp://me:{SECRET}@host/live and ftp://{SECRET}@host/a", "rtmp://host/live and ftp://host/a"),
        (
            f"url=http://host/?token={SECRET} x_http://{SECRET}@host/",
            f"url=http://host/?token={REDACTED} x_http://host/",
        ),
        ("no link: 10:30, a/b, c://", "no link: 10:30, a/b, c://"),
    ],
)
def test_links_in_text_are_redacted_and_the_words_around_them_stay(text: str, told: str) -> None:
    assert redact_text(text) == told


@given(anything)
def test_redacting_text_twice_is_redacting_it_once(text: str) -> None:
    once = redact_text(text)
    assert redact_text(once) == once
