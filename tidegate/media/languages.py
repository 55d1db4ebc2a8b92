"""What the language of a track is called: containers write the same one in several ways.

MP4 keeps three letters of ISO 639-2/T (ISO/IEC 14496-12 §8.4.2), Matroska ISO 639-2/B or a tag of BCP 47, sites BCP 47.
"""

from __future__ import annotations

import langcodes

UNKNOWN = frozenset({"", "und", "zxx", "mis", "mul", "qaa"})
"""What says no language."""


def mp4_language(tag: str | None) -> str | None:
    """Three letters for MP4; None where there are none, or the tag says nothing."""
    if tag is None or tag.lower() in UNKNOWN:
        return None
    try:
        return langcodes.Language.get(tag).to_alpha3(variant="T")
    except (ValueError, LookupError):
        return None


def name_language(tag: str | None) -> str:
    """As a person reads it; empty where it says nothing."""
    return tag if tag and tag.lower() not in UNKNOWN else ""


def same_language(before: str, after: str) -> bool:
    """Whether nothing was lost: `ger`, `de` and `deu` are one, `pt-BR` says more than `por`."""
    if before.lower() == after.lower():
        return True
    try:
        mine, theirs = langcodes.Language.get(before), langcodes.Language.get(after)
        return langcodes.standardize_tag(mine.to_tag()) == langcodes.standardize_tag(theirs.to_tag())
    except ValueError:
        return False
