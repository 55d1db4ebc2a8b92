"""Numbers, and how a file was made, as people read them: in the terminal, on the page, in the live display. Pure."""

from __future__ import annotations

from tidegate.model import Strategy

MADE = {
    Strategy.COPY: "without re-encoding",
    Strategy.REPAIR: "repaired, without re-encoding",
    Strategy.TRANSCODE: "transcoded",
}
"""How a result was made."""


def clock(seconds: float | None) -> str:
    """`1:02:03.4` for a position in the media."""
    if seconds is None:
        return "–"
    minutes, rest = divmod(round(seconds, 1), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02d}:{rest:04.1f}" if hours else f"{minutes}:{rest:04.1f}"


def human_size(size_bytes: float | None) -> str:
    """`12.3 MB`, in powers of 1000."""
    if size_bytes is None:
        return "–"
    size = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def duration(seconds: float) -> str:
    """How long something took: `2.4 s`, `3 min 20 s`, `1 h 2 min`."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def quantity(number: int, what: str) -> str:
    """`1 request`, `2 requests`, `2 retries`."""
    if number == 1:
        return f"1 {what}"
    return f"{number} {what[:-1]}ies" if what.endswith("y") else f"{number} {what}s"
