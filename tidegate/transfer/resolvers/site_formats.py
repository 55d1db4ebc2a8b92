"""What a site offers, and which of it becomes a rendition: for each height a picture, and the sound that goes with it.

The site resolver asks; everything here is pure. Links and headers of formats may be signed: they live in memory only,
and nothing that is stored is made of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit, urlunsplit

from pydantic import SecretStr

from tidegate.model import Rendition, fingerprint
from tidegate.redact import redact_url
from tidegate.transfer.request import OURS

Delivery = Literal["file", "hls", "dash"]

DELIVERIES: dict[str, Delivery] = {
    "http": "file",
    "https": "file",
    "m3u8": "hls",
    "m3u8_native": "hls",
    "http_dash_segments": "dash",
}
"""yt-dlp's names of protocols that our engine can bring."""

MEDIA_SUFFIXES = (
    *(".3gp", ".aac", ".asf", ".avi", ".f4v", ".flac", ".flv", ".m2ts", ".m3u", ".m3u8", ".m4a", ".m4b", ".m4v"),
    *(".mka", ".mkv", ".mov", ".mp3", ".mp4", ".mpd", ".mpeg", ".mpg", ".mts", ".mxf", ".oga", ".ogg", ".ogv"),
    *(".opus", ".ts", ".vob", ".wav", ".webm", ".wma", ".wmv"),
)
"""A link that ends so is the media itself, whatever site it is on."""

LONGEST_ID = 48

_TRACKING = re.compile(
    r"^(utm_.*|fbclid|gclid|dclid|msclkid|yclid|mc_[ce]id|igsh(id)?|_ga|_gl|spm|ref_(src|url)|si|feature)$",
    re.IGNORECASE,
)
"""Query names that say who shared a link and where, and nothing of what it leads to."""
_PLACES: dict[str, frozenset[str]] = {
    "youtube": frozenset({"t", "start", "time_continue", "list", "index", "pp", "ab_channel"}),
    "vimeo": frozenset({"share", "fl", "fe"}),
    "twitchvod": frozenset({"t", "filter", "sort"}),
}
"""Query names that on these sites say where in it somebody was, or in which list."""
_EXPIRY_NAMES = ("expire", "expires", "exp", "e", "hdntl-exp", "oe", "validto")
_EARLIEST, _LATEST = 1_500_000_000, 10_000_000_000
"""Between these a number is a time: from 2017 on, in seconds."""


@dataclass(frozen=True)
class Format:
    """One version of picture, sound or both, as a site has it."""

    id: str
    delivery: Delivery
    url: SecretStr
    """The file or the playlist."""
    headers: Mapping[str, SecretStr] = field(default_factory=dict)
    """That the site wants to see with the request for it; cookies are among them."""
    video: bool = True
    audio: bool = True
    height: int | None = None
    width: int | None = None
    bandwidth_bps: int | None = None
    size_bytes: int | None = None
    vcodec: str = ""
    acodec: str = ""
    language_preference: int = -1
    """The higher the better; the original sound is 10."""


@dataclass(frozen=True)
class Choice:
    """A rendition, and the formats that it is made of."""

    rendition: Rendition
    formats: tuple[Format, ...]
    """The picture first."""


def format_of(facts: Mapping[str, Any]) -> Format | None:
    """A format of yt-dlp's as one of ours; None where our engine cannot bring it."""
    delivery = DELIVERIES.get(str(facts.get("protocol")))
    url = facts.get("manifest_url") if delivery == "dash" else facts.get("url")
    if delivery is None or not url or facts.get("has_drm") or urlsplit(str(url)).scheme not in ("http", "https"):
        return None
    vcodec, acodec = str(facts.get("vcodec") or ""), str(facts.get("acodec") or "")
    sound_alone = vcodec == "none" or (not vcodec and facts.get("audio_ext") not in (None, "none"))
    if sound_alone and acodec == "none":  # pictures of a storyboard
        return None
    return Format(
        id=str(facts.get("format_id")),
        delivery=delivery,
        url=SecretStr(str(url)),
        headers=_headers(facts),
        video=not sound_alone,
        audio=acodec != "none",
        height=_whole_number(facts.get("height")),
        width=_whole_number(facts.get("width")),
        bandwidth_bps=_whole_number((facts.get("tbr") or 0) * 1000),
        size_bytes=_whole_number(facts.get("filesize") or facts.get("filesize_approx")),
        vcodec="" if vcodec == "none" else vcodec,
        acodec="" if acodec == "none" else acodec,
        language_preference=int(facts.get("language_preference") or -1),
    )


def choices_of(formats: Sequence[Format]) -> tuple[Choice, ...]:
    """One rendition for each height; of sound alone where there is nothing else. `formats`: worst first."""
    pictures = [one for one in formats if one.video]
    sounds = [one for one in formats if not one.video]
    if not pictures:
        return tuple(_choice((one,)) for one in _of_best_language(sounds))
    heights = sorted({one.height or 0 for one in pictures})
    return tuple(_choice(_best([one for one in pictures if (one.height or 0) == height], sounds)) for height in heights)


def same_choice(choices: Sequence[Choice], wanted: Rendition) -> Choice | None:
    """The rendition of that id; else, where a site numbers its formats anew each time, the only one of that height."""
    for choice in choices:
        if choice.rendition.id == wanted.id:
            return choice
    alike = [choice for choice in choices if wanted.height and choice.rendition.height == wanted.height]
    return alike[0] if len(alike) == 1 else None


def expires_at(url: str) -> float | None:
    """Until when a signed link holds, in seconds since the epoch, where it says so."""
    try:
        query = {name.lower(): values[0] for name, values in parse_qs(urlsplit(url).query).items()}
    except ValueError:
        return None
    for name in _EXPIRY_NAMES:
        value = query.get(name, "")
        if value.isdigit() and _EARLIEST < int(value) < _LATEST:
            return float(value)
    return _amazon_expiry(query)


def canonical_link(url: str, site: str = "") -> str:
    """The link without what does not change where it leads; redacted, so it can be stored. `site` is the extractor."""
    parts = urlsplit(url)
    dropped = _PLACES.get(site.lower(), frozenset())
    query = [
        (name, value)
        for name, value in parse_qsl(parts.query, keep_blank_values=True)
        if not _TRACKING.match(name) and name.lower() not in dropped
    ]
    host = parts.netloc.lower()
    return redact_url(urlunsplit((parts.scheme.lower(), host, parts.path or "/", urlencode(query), "")))


def ends_as_media(url: str) -> bool:
    """Whether the path of a link ends as a media file's."""
    return urlsplit(url).path.lower().endswith(MEDIA_SUFFIXES)


def _best(pictures: Sequence[Format], sounds: Sequence[Format]) -> tuple[Format, ...]:
    """The last of those that need no transcoding, else the last: the site has the best at the end."""
    best = max(enumerate(pictures), key=lambda placed: (_is_h264(placed[1].vcodec), placed[0]))[1]
    if best.audio or not sounds:
        return (best,)
    fitting = max(
        enumerate(_of_best_language(sounds)),
        key=lambda placed: (_is_h264(best.vcodec) and _is_aac(placed[1].acodec), placed[0]),
    )[1]
    return (best, fitting)


def _of_best_language(sounds: Sequence[Format]) -> list[Format]:
    best = max((one.language_preference for one in sounds), default=0)
    return [one for one in sounds if one.language_preference == best]


def _choice(formats: tuple[Format, ...]) -> Choice:
    first = formats[0]
    rates = [one.bandwidth_bps for one in formats]
    sizes = [one.size_bytes for one in formats]
    shown = f"{first.width}x{first.height}" if first.width else f"{first.height}p" if first.height else ""
    codecs = "+".join(filter(None, (codec.partition(".")[0] for one in formats for codec in (one.vcodec, one.acodec))))
    what = "+".join(one.id for one in formats)
    rendition = Rendition(
        id=_safe(f"{first.height}p-{what}" if first.height else f"{'video' if first.video else 'audio'}-{what}"),
        label=", ".join(filter(None, (shown or ("" if first.video else "sound"), codecs, f"format {what}"))),
        height=first.height,
        bandwidth_bps=sum(rate or 0 for rate in rates) or None,
        size_bytes=None if None in sizes else sum(size or 0 for size in sizes),
    )
    return Choice(rendition, formats)


def _safe(text: str) -> str:
    """As a folder's name: the same text, where it is one; else with a hash, so that two never meet."""
    clean = re.sub(r"[^A-Za-z0-9_.-]+", "-", text.replace("+", "-")).strip("-.")
    if clean == text.replace("+", "-") and len(clean) <= LONGEST_ID:
        return clean
    return f"{clean[:LONGEST_ID]}-{fingerprint(text)[:8]}"


def _headers(facts: Mapping[str, Any]) -> dict[str, SecretStr]:
    given = {str(name): str(value) for name, value in (facts.get("http_headers") or {}).items() if value}
    if facts.get("cookies"):
        given["Cookie"] = str(facts["cookies"])
    return {name: SecretStr(value) for name, value in given.items() if name.lower() not in OURS}


def _is_h264(codec: str) -> bool:
    return codec.startswith(("avc1", "avc3", "h264"))


def _is_aac(codec: str) -> bool:
    return codec.startswith(("mp4a", "aac"))


def _whole_number(number: Any) -> int | None:
    try:
        return int(number) or None
    except (TypeError, ValueError, OverflowError):
        return None


def _amazon_expiry(query: Mapping[str, str]) -> float | None:
    """`X-Amz-Date` and the seconds for which it holds."""
    try:
        begun = datetime.strptime(query["x-amz-date"] + "+0000", "%Y%m%dT%H%M%SZ%z")
        return begun.timestamp() + int(query["x-amz-expires"])
    except (KeyError, ValueError):
        return None
