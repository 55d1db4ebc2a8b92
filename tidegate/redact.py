"""URLs without their secrets, and texts of strangers without what a terminal would obey.

Everything that shows, stores or compares a URL goes through `redact_url`; the full URL lives only in memory and in
a secret file. Pure functions: the same URL always redacts to the same text, so it can be part of a key.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, quote, urlsplit, urlunsplit

REDACTED = "REDACTED"

_SECRET_NAME = re.compile(
    r"^(x-amz-.*|x-goog-.*|.*token.*|.*signature.*|sig|sign|hmac|policy|key-pair-id|.*api[-_]?key.*|.*access[-_]?key.*"
    r"|auth(orization)?|auth[-_]?key|bearer|credentials?|password|passwd|pass|pwd|.*secret.*|code|key|ticket|md5|hash"
    r"|session(_?id|_?token)?|(php|j)sess(ion)?id|jwt|hdnts|hdnea|expires?|exp|se|sp|sv|sr|st|spr|skoid)$",
    re.IGNORECASE | re.DOTALL,
)
"""Query names that carry a credential, or its validity, on S3, GCS, Azure, Akamai, CloudFront and their like. A name
with a line break in it is one, too, and takes no longer than any other."""

_SECRET_IN_PATH = re.compile(
    r"^(.*token.*|hdnts|hdnea|hdntl|hmac|sig|signature|jwt|(php|j)?sess(ion)?_?id)$", re.IGNORECASE | re.DOTALL
)
"""What servlets and Akamai put there: `film.mp4;jsessionid=…`, `/hdnts=exp=…~hmac=…/film.m3u8`."""
_PATH_PAIR = re.compile(r"(?<=[;/])([^;/=]+)=[^;/]+")
_SEMICOLON_PAIR = re.compile(r"(?<=;)([^;=]+)=[^;]*")
DEEPEST = 3
"""Links within links that are looked into; what lies deeper goes as a whole."""

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
"""A byte of a command line or file name that is no UTF-8; neither JSON nor a terminal takes it."""

_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""What terminals and browsers obey and do not show: escapes and other controls of ASCII and Latin-1, line ends that are
no line feed, changes of the direction of writing. Tab and line feed are not among it."""

_URL_IN_TEXT = re.compile(r"[a-z][a-z0-9+.-]{0,20}://[^\s'\"<>]+", re.IGNORECASE)


def redact_url(url: str) -> str:
    """The URL with credentials replaced: user info, secret values in query and path, those of links within it, and the
    fragment. Always printable as UTF-8."""
    return _redact(url, DEEPEST)


def _redact(url: str, depth: int) -> str:
    url = _LONE_SURROGATE.sub("\ufffd", url)
    try:
        parts = urlsplit(url)
    except ValueError:  # not a URL at all, such as `http://[`: nothing says where in it a secret may stand
        return REDACTED
    if parts.scheme not in ("http", "https") and (not parts.netloc or parts.scheme in ("", "file")):
        return url
    host = parts.netloc.rpartition("@")[2]
    pairs = ((name, _value(name, value, depth)) for name, value in parse_qsl(parts.query, keep_blank_values=True))
    query = "&".join(f"{quote(name, safe='', errors='replace')}={shown}" for name, shown in pairs)
    return urlunsplit((parts.scheme, host, _path(parts.path), query, ""))


def redact_text(text: str) -> str:
    """Free text, such as a tool's output, with every URL in it redacted, and visible as a whole."""
    return visible(_URL_IN_TEXT.sub(lambda found: redact_url(found.group()), _LONE_SURROGATE.sub("\ufffd", text)))


def visible(text: str) -> str:
    """Text of a stranger that moves no cursor, sets no title and hides nothing: what is obeyed is written as an escape,
    such as `\\x1b`. The same text however often it is asked for."""
    return _OBEYED.sub(lambda found: found.group().encode("unicode_escape").decode(), text)


def visible_line(text: str) -> str:
    """The same on one line, so that it cannot look like a line of ours."""
    return visible(text).replace("\n", "\\n")


def has_secret(url: str) -> bool:
    """Whether redaction takes anything but the fragment away."""
    try:
        parts = urlsplit(url)
    except ValueError:  # redaction takes all of it away
        return True
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    hidden = any(_value(name, value, DEEPEST) != _quote(value) for name, value in pairs)
    return "@" in parts.netloc or hidden or _path(parts.path) != parts.path


def _path(path: str) -> str:
    return _without_secrets(_PATH_PAIR, _SECRET_IN_PATH, path)


def _value(name: str, value: str, depth: int) -> str:
    """A value of the query as it is shown, quoted."""
    if _SECRET_NAME.match(name):
        return REDACTED
    if "://" in value:
        value = _URL_IN_TEXT.sub(lambda found: _redact(found.group(), depth - 1), value) if depth else REDACTED
    return _quote(_without_secrets(_SEMICOLON_PAIR, _SECRET_NAME, value))


def _without_secrets(pairs: re.Pattern[str], names: re.Pattern[str], text: str) -> str:
    """The pairs in a text whose name is secret lose their value. Linear in the text: servers choose how long it is."""
    return pairs.sub(lambda pair: f"{pair[1]}={REDACTED}" if names.match(pair[1]) else pair[0], text)


def _quote(value: str) -> str:
    return quote(value, safe="/:,~*!'()", errors="replace")
