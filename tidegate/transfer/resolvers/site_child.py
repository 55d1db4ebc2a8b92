"""Asks yt-dlp what media a page leads to and prints it, as JSON lines. Runs as a child process of its own.

The site resolver starts it under supervision, so that an extractor can hang or crash only this process. It reads one
file with the link and its secrets, which it removes at once, and writes nothing else: no cache, no configuration, no
plugins, no downloads. It imports yt-dlp and nothing of ours, so it may run from anywhere.

    python -I site_child.py REQUEST.json

The request is `{"url": …, "headers": {…}, "timeout": seconds, "proxy": link}`; without a proxy it connects by itself,
or as its environment says. The lines are `{"requests": n}` before each request to the outside, then `{"media": …}` and
a `{"format": …}` for each format, or one `{"refused": …}`.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import urllib.request
from collections.abc import Iterator
from http.cookiejar import Cookie, DefaultCookiePolicy
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

os.environ["YTDLP_NO_PLUGINS"] = "1"  # read when yt-dlp is imported

from yt_dlp import YoutubeDL
from yt_dlp.networking._urllib import UrllibRH
from yt_dlp.networking.exceptions import HTTPError, RequestError
from yt_dlp.utils import (
    DownloadError,
    ExtractorError,
    GeoRestrictedError,
    UnsupportedError,
    UserNotLive,
    YoutubeDLError,
)

FORMAT_FIELDS = (
    *("format_id", "url", "manifest_url", "protocol", "ext", "container", "vcodec", "acodec", "video_ext", "audio_ext"),
    *("height", "width", "fps", "tbr", "filesize", "filesize_approx", "language", "language_preference", "has_drm"),
    *("http_headers", "cookies"),
)
MEDIA_FIELDS = ("extractor_key", "id", "title", "duration", "live_status", "direct")
MOST_ENTRIES = 2
"""How far a list is followed: to see whether it is one video, or several."""
_PORTS = {"http": 80, "https": 443}
USUAL_PORTS = "80,443"
"""Of a link that names none; http.cookiejar takes it for 80, whatever the scheme."""


class Quiet:
    """Where yt-dlp says what it does: to stderr, which is this process's evidence."""

    def debug(self, message: str) -> None:
        pass

    info = debug

    def warning(self, message: str) -> None:
        sys.stderr.write(f"WARNING: {message}\n")

    def error(self, message: str) -> None:
        sys.stderr.write(f"{message}\n")


class OwnHeaders(urllib.request.BaseHandler):
    """Adds the person's headers to requests to the page's own origin, and to those only.

    It sees every request, also those that follow a redirect; headers given to yt-dlp itself would go everywhere.
    """

    handler_order = 900

    def __init__(self, origin: tuple[str, str, int], headers: dict[str, str]) -> None:
        self.origin, self.headers = origin, headers

    def http_request(self, request: urllib.request.Request) -> urllib.request.Request:
        if page_origin(request.full_url) == self.origin:
            for name, value in self.headers.items():
                request.add_unredirected_header(name.capitalize(), value)
        return request

    https_request = http_request


class Extractor(YoutubeDL):  # type: ignore[misc]  # it has no types
    """yt-dlp with somebody listening, and with headers that stay at home."""

    def __init__(self, options: dict[str, Any], origin: tuple[str, str, int], headers: dict[str, str]) -> None:
        self._own = OwnHeaders(origin, headers)
        self._requests = 0
        super().__init__(options)

    def urlopen(self, request: Any) -> Any:
        self._requests += 1
        say({"requests": self._requests})
        return super().urlopen(request)

    def build_request_director(self, handlers: Any, preferences: Any = None) -> Any:
        if not self._own.headers:
            return super().build_request_director(handlers, preferences)
        own = self._own

        class OwnHeadersRH(UrllibRH):  # type: ignore[misc]  # nor has this
            def _create_instance(self, *arguments: Any, **named: Any) -> Any:
                opener = super()._create_instance(*arguments, **named)
                opener.add_handler(own)
                return opener

        return super().build_request_director([OwnHeadersRH], None)


def run_extractor(request: dict[str, Any]) -> None:
    url, headers = without_login(request["url"], dict(request["headers"]))
    cookies = next((headers.pop(name) for name in list(headers) if name.lower() == "cookie"), "")
    options = {
        "quiet": True,
        "no_color": True,
        "logger": Quiet(),
        "cachedir": False,
        "noplaylist": True,
        "playlistend": MOST_ENTRIES,
        "format": "all",
        "skip_download": True,
        "socket_timeout": request["timeout"],
        "proxy": request.get("proxy"),
        # Who calls tries again, and counts.
        "retries": 0,
        "extractor_retries": 0,
    }
    with Extractor(options, page_origin(url), headers) as ydl:
        ydl.cookiejar.set_policy(own_host_only())
        for cookie in cookies_of(cookies, url):
            ydl.cookiejar.set_cookie(cookie)
        found = single(ydl.extract_info(url, download=False))
        if found is None:
            say({"refused": {"kind": "several", "message": "The page leads to more than one video"}})
            return
        show(ydl, found)


def show(ydl: YoutubeDL, found: dict[str, Any]) -> None:
    media = {name: found.get(name) for name in MEDIA_FIELDS}
    media["subtitles"] = {
        language: [{"url": one.get("url"), "ext": one.get("ext")} for one in versions if one.get("url")]
        for language, versions in (found.get("subtitles") or {}).items()
    }
    say({"media": media})
    for offered in found.get("formats") or [found]:
        facts = {name: offered.get(name) for name in FORMAT_FIELDS}
        # What the cookies are for is settled here; the jar stays.
        facts["cookies"] = ydl.cookiejar.get_cookie_header(offered["url"]) if offered.get("url") else None
        facts["http_headers"] = dict(offered.get("http_headers") or {})
        say({"format": facts})


def single(found: dict[str, Any]) -> dict[str, Any] | None:
    """The one video that was found; None where there are several, or none."""
    while "entries" in found:
        entries = [entry for entry in found["entries"] if entry]
        if len(entries) != 1:
            return None
        found = entries[0]
    return found


def refusal(error: BaseException) -> dict[str, Any]:
    """What went wrong, in a word and in yt-dlp's words."""
    causes = list(causes_of(error))
    message = str(next((e.orig_msg for e in causes if isinstance(e, ExtractorError)), causes[-1] if causes else error))
    for cause in causes:
        if isinstance(cause, HTTPError):
            retry_after = cause.response.headers.get("Retry-After")
            return {"kind": "http", "status": cause.status, "retry_after": retry_after, "message": message}
    kinds: tuple[tuple[type[BaseException], str], ...] = (
        (UnsupportedError, "unsupported"),
        (GeoRestrictedError, "geo"),
        (UserNotLive, "not_live"),
        (TimeoutError, "timeout"),
        (RequestError, "network"),
        (OSError, "network"),
    )
    for family, kind in kinds:
        if any(isinstance(cause, family) for cause in causes):
            return {"kind": kind, "message": message}
    expected = any(isinstance(cause, ExtractorError) and cause.expected for cause in causes)
    return {"kind": "said" if expected else "crash", "message": message}


def causes_of(error: BaseException) -> Iterator[BaseException]:
    """The exception and all that it comes from: yt-dlp has a way of its own to say so, beside Python's."""
    seen: set[int] = set()
    waiting: list[Any] = [error]
    while waiting:
        one = waiting.pop(0)
        if not isinstance(one, BaseException) or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        own = getattr(one, "exc_info", None)
        waiting += [own[1] if own else None, getattr(one, "cause", None), one.__cause__, one.__context__]


def without_login(url: str, headers: dict[str, str]) -> tuple[str, dict[str, str]]:
    """A login in the link as a header: yt-dlp's own would follow a redirect to another origin."""
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return url, headers
    login, _, host = parts.netloc.rpartition("@")
    encoded = base64.b64encode(unquote(login).encode()).decode()
    return urlunsplit(parts._replace(netloc=host)), {**headers, "Authorization": f"Basic {encoded}"}


def own_host_only() -> DefaultCookiePolicy:
    """Else the jar would give a cookie that names no domain to subdomains of its host too."""
    return DefaultCookiePolicy(strict_ns_domain=DefaultCookiePolicy.DomainStrictNonDomain)


def cookies_of(header: str, url: str) -> Iterator[Cookie]:
    """A Cookie header as cookies of the page's own host and port alone."""
    parts = urlsplit(url)
    port = str(parts.port) if parts.port else USUAL_PORTS
    host = parts.hostname or ""
    pairs = (pair.strip().partition("=") for pair in header.split(";"))
    for name, value in ((name, value) for name, _, value in pairs if name):
        yield Cookie(
            version=0,
            name=name,
            value=value,
            port=port,
            port_specified=True,
            domain=host if "." in host else f"{host}.local",
            domain_specified=False,
            domain_initial_dot=False,
            path="/",
            path_specified=True,
            secure=parts.scheme == "https",
            expires=None,
            discard=True,
            comment=None,
            comment_url=None,
            rest={},
        )


def page_origin(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    return parts.scheme.lower(), (parts.hostname or "").lower(), parts.port or _PORTS.get(parts.scheme.lower(), 0)


def say(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message, default=str) + "\n")
    sys.stdout.flush()


def main() -> None:
    path = Path(sys.argv[1])
    request = json.loads(path.read_bytes())
    path.unlink()
    try:
        run_extractor(request)
    except (YoutubeDLError, DownloadError, OSError) as error:
        say({"refused": refusal(error)})


if __name__ == "__main__":
    main()
