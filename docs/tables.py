"""Writes the tables of the docs that stand in the code: failures, settings, the decision table.

`make docs` runs it; a test runs it too and fails when a page differs. It replaces what stands between the marks
`<!-- table NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import fields
from datetime import timedelta
from pathlib import Path
from typing import Any

from tidegate.errors import POLICIES, Policy, TidegateError, snake_case
from tidegate.media.diagnose import CATALOGUE
from tidegate.model import Decision, MediaInfo, ProfileName, Quality, Strategy, StreamInfo
from tidegate.resilience.quality import MB, RUNGS
from tidegate.settings import Group, Settings
from tidegate.stages.decide import (
    ALLOWED,
    MATROSKA_SUBTITLES,
    PICTURE_SUBTITLES,
    TEXT_SUBTITLES,
    decide,
    plan_sidecars,
)
from tidegate.stages.detectors import DETECTORS
from tidegate.stages.recipes import audio_arguments, filters, output_arguments, repair_arguments, video_arguments

DOCS = Path(__file__).resolve().parent


def failures() -> Iterator[str]:
    yield (
        "| `failure.type` | failure | retried inside | task retried | steps quality down | climbs remux ladder "
        "| counts against origin | category |"
    )
    yield "|---|---|---|---|---|---|---|---|"
    for failure, policy in POLICIES.items():
        yield _failure_row(failure, policy)


def _failure_row(failure: type[TidegateError], policy: Policy) -> str:
    retried = {0: "no", 1: "once", 2: "yes"}[policy.task_retries]
    lower = [
        *(["another rendition"] if policy.another_rendition else []),
        *(["a smaller picture"] if policy.smaller_picture else []),
    ]
    climbs = "yes" if policy.climbs else "–"
    counts = "+1" if policy.counts_against_origin else "no"
    return (
        f"| `{snake_case(failure.__name__)}` | {policy.label} | {policy.inside_words or policy.inside} | {retried} "
        f"| {', '.join(lower) or '–'} | {climbs} | {counts} | {policy.category} |"
    )


SHOWN_ELSEWHERE = frozenset(
    {
        *("label", "category", "friendly", "actions", "friendly_for_a_file", "actions_for_a_file"),
        *("inside", "inside_words", "task_retries", "another_rendition", "smaller_picture", "climbs"),
        "counts_against_origin",
    }
)
"""Fields of the policy table that stand in the other tables."""


def failure_decisions() -> Iterator[str]:
    yield "| field | what it says | set for |"
    yield "|---|---|---|"
    meanings = _field_docstrings(Policy)
    for field in fields(Policy):
        if field.name in SHOWN_ELSEWHERE:
            continue
        rows = {
            snake_case(failure.__name__): getattr(policy, field.name)
            for failure, policy in POLICIES.items()
            if getattr(policy, field.name) != field.default
        }
        names = ", ".join(f"`{name}`{_shown_if_more(value)}" for name, value in rows.items())
        yield f"| `{field.name}` | {meanings[field.name]} | {names} |"


def _shown_if_more(value: object) -> str:
    if value is True:
        return ""
    parts = sorted(value) if isinstance(value, frozenset) else [value]
    return f" ({', '.join(str(part) for part in parts)})"


def messages() -> Iterator[str]:
    yield "| `failure.type` | what it means | what the person reads | what the person can do |"
    yield "|---|---|---|---|"
    for failure, policy in POLICIES.items():
        meaning = " ".join((failure.__doc__ or "").split("\n\n")[0].split())
        yield f"| `{snake_case(failure.__name__)}` | {meaning} | {policy.friendly} | {'; '.join(policy.actions)} |"


def all_settings() -> Iterator[str]:
    yield "| environment variable | default | meaning |"
    yield "|---|---|---|"
    for group in _groups():
        docstrings = _field_docstrings(group)
        prefix = str(group.model_config.get("env_prefix"))
        for name, field in group.model_fields.items():
            default = "see below" if field.default_factory else _shown(field.default)
            yield f"| `{prefix}{name.upper()}` | {default} | {docstrings[name]} |"


def _groups() -> list[type[Group]]:
    """Where things lie comes first; the rest as they stand in the code."""
    kinds = [field.annotation for field in Settings.model_fields.values() if field.annotation is not None]
    return sorted(kinds, key=lambda kind: kind.__name__ != "StoreSettings")


def profiles() -> Iterator[str]:
    yield "| profile | video copied | audio copied | deepest video | everything else |"
    yield "|---|---|---|---|---|"
    for name, allowed in ALLOWED.items():
        otherwise = "into Matroska, as it is" if name is ProfileName.ORIGINAL else "H.264 8-bit 4:2:0, AAC"
        yield (
            f"| `{name}` | {', '.join(sorted(allowed.video))} | {', '.join(sorted(allowed.audio))} "
            f"| {allowed.deepest_bits} bit (H.264: {8 if name is not ProfileName.ORIGINAL else 16}) | {otherwise} |"
        )


def rungs() -> Iterator[str]:
    yield "| rung | memory cap | wants | timeout × | threads | height after a step down |"
    yield "|---|---|---|---|---|---|"
    for rung in RUNGS:
        asked = "" if rung.recommended else " (only when asked for)"
        yield (
            f"| `{rung.quality}`{asked} | {rung.memory_cap_bytes // MB} MB | {rung.wanted_bytes // MB} MB "
            f"| {rung.timeout_factor} | {rung.threads} | {rung.height} |"
        )


def _stream(kind: str, codec: str, **told: Any) -> StreamInfo:
    sound = {"sample_rate": 48000, "channels": 2} if kind == "audio" else {}
    picture = {"pix_fmt": "yuv420p", "bit_depth": 8, "width": 1920, "height": 1080} if kind == "video" else {}
    return StreamInfo.model_validate({"index": 0, "kind": kind, "codec": codec, **sound, **picture, **told})


PICTURES: dict[str, StreamInfo] = {
    "H.264 up to High, 8 bit 4:2:0 (also full range)": _stream("video", "h264", profile="High"),
    "H.264 10 bit": _stream("video", "h264", pix_fmt="yuv420p10le", bit_depth=10),
    "H.264 4:2:2 or 4:4:4": _stream("video", "h264", pix_fmt="yuv422p"),
    "H.264 High 4:4:4 Predictive (lossless 4:2:0)": _stream("video", "h264", profile="High 4:4:4 Predictive"),
    "H.264 beyond level 5.2": _stream("video", "h264", level=62),
    "more than 36,864 blocks of 16 × 16 pixels": _stream("video", "h264", height=4320, width=7680),
    "H.264, interlaced as seen": _stream("video", "h264", field_order="tt", scan="tff"),
    "H.264, interlaced only by its header": _stream("video", "h264", field_order="tt", scan="progressive"),
    "HEVC 8 or 10 bit": _stream("video", "hevc"),
    "HEVC 12 bit, or 4:2:2": _stream("video", "hevc", pix_fmt="yuv422p10le", bit_depth=10),
    "HEVC HDR (PQ, HLG)": _stream("video", "hevc", pix_fmt="yuv420p10le", bit_depth=10, color_transfer="smpte2084"),
    "VP9": _stream("video", "vp9"),
    "AV1": _stream("video", "av1"),
    "MPEG-4 part 2": _stream("video", "mpeg4"),
    "VP8, MPEG-1/2, WMV, Theora, MJPEG, ProRes, DV, FFV1 …": _stream("video", "mpeg2video"),
    "MPEG-2, interlaced as seen": _stream("video", "mpeg2video", scan="bff"),
}
SOUNDS: dict[str, StreamInfo] = {
    name: _stream("audio", codec)
    for name, codec in {
        "AAC": "aac",
        "AC-3, E-AC-3": "ac3",
        "Opus": "opus",
        "MP3": "mp3",
        "FLAC, ALAC": "flac",
        "DTS, TrueHD": "dts",
        "Vorbis, MP2, PCM, WMA …": "vorbis",
    }.items()
}


def decisions() -> Iterator[str]:
    """What `decide` makes of each picture and each sound alone."""
    yield f"| source | {' | '.join(f'`{name}`' for name in ProfileName)} |"
    yield "|---|---|---|---|"
    for name, stream in (PICTURES | SOUNDS).items():
        media = MediaInfo(container="any", streams=(stream,))
        cells = [_decided(decide(media, profile, Quality.AUTO), stream) for profile in ProfileName]
        yield f"| {name} | {' | '.join(cells)} |"


def _decided(decision: Decision, stream: StreamInfo) -> str:
    said = decision.video if stream.kind == "video" else decision.audio
    words = {"h264": "encoded", "aac": "AAC"}.get(said, said)
    fields = ", deinterlaced" if decision.deinterlace else ""
    mapped = ", tone-mapped, told" if decision.tone_map else ""
    height = f", {decision.height} lines" if decision.height else ""
    return f"{words}{fields}{mapped}{height}{' (Matroska)' if decision.container == 'matroska' else ''}"


def subtitles() -> Iterator[str]:
    yield "| subtitles | in MP4 | beside the video | in Matroska (`original`) |"
    yield "|---|---|---|---|"
    named = dict.fromkeys(sorted(TEXT_SUBTITLES), "text") | dict.fromkeys(PICTURE_SUBTITLES, "picture")
    for codec, kind in {**named, "dvb_teletext": "", "eia_608": ""}.items():
        stream = _stream("subtitle", codec)
        media = MediaInfo(container="any", streams=(_stream("video", "h264", index=1), stream))
        beside = [f"`.{sidecar.name.rpartition('.')[2]}`" for sidecar in plan_sidecars(media, mp4=True)]
        inside = "`mov_text`" if kind == "text" else "–"
        kept = "as it is" if codec in MATROSKA_SUBTITLES else "beside it" if kind else "dropped and told"
        yield f"| `{codec}` | {inside} | {', '.join(beside) or 'dropped and told'} | {kept} |"


def flags() -> Iterator[str]:
    """The flags as `recipes` gives them, for a film of H.264 or MPEG-2 with AC-3."""
    yield "| strategy | before the input | picture | sound | the file |"
    yield "|---|---|---|---|---|"
    for strategy, codec in ((Strategy.COPY, "hevc"), (Strategy.REPAIR, "hevc"), (Strategy.TRANSCODE, "mpeg2video")):
        media = MediaInfo(container="any", streams=(_stream("video", codec), _stream("audio", "ac3", index=1)))
        decision = _made_by(strategy)
        picture, sound = video_arguments(decision, media, 2), audio_arguments(decision, media)
        maps = ["-map", "0:0", "-map", "0:1"]
        everything = output_arguments(decision, media, 2)
        rest = everything[len(maps) + len(picture) + len(sound) :]
        cells = [" ".join(words) for words in (repair_arguments(decision, media), picture, sound, rest)]
        yield f"| {strategy} | {' | '.join(f'`{cell}`' if cell else '–' for cell in cells)} |"


def _made_by(strategy: Strategy) -> Decision:
    encodes = strategy is Strategy.TRANSCODE
    return Decision(
        strategy=strategy,
        container="mp4",
        video="h264" if encodes else "copy",
        audio="aac" if encodes else "copy",
        subtitles="none",
        keep_audio=(1,),
    )


def pictures_steps() -> Iterator[str]:
    """What is added to the picture's filters, and when."""
    yield "| when | filters, in this order |"
    yield "|---|---|"
    plain, video = _made_by(Strategy.TRANSCODE), PICTURES["HEVC 8 or 10 bit"]
    hdr = PICTURES["HEVC HDR (PQ, HLG)"]
    cases = {
        "always": (plain, video),
        "the pictures are fields, the top one first": (plain.model_copy(update={"deinterlace": "tff"}), video),
        "an odd side": (plain, video.model_copy(update={"width": 1919})),
        "pixels that are not square (16:11)": (
            plain,
            _stream("video", "x", width=720, height=576, sample_aspect=16 / 11),
        ),
        "a lower rung": (plain.model_copy(update={"height": 720}), video),
        "HDR": (plain.model_copy(update={"tone_map": "zscale"}), hdr),
        "HDR, and an ffmpeg without zscale": (plain.model_copy(update={"tone_map": "plain"}), hdr),
    }
    for name, (decision, stream) in cases.items():
        yield f"| {name} | `{','.join(filters(decision, stream))}` |"


def last_words() -> Iterator[str]:
    yield "| `failure.type` | a line that means it | as newer builds say it |"
    yield "|---|---|---|"
    for pattern in CATALOGUE:
        older, *_, newer = pattern.examples
        yield f"| `{snake_case(pattern.failure.__name__)}` | `{older}` | `{newer}` |"


def detectors() -> Iterator[str]:
    yield "| detector | looks at | ffmpeg filter |"
    yield "|---|---|---|"
    for detector in DETECTORS:
        yield f"| `{detector.name}` | {detector.kind} | `{detector.filter}` |"


TABLES: dict[str, Callable[[], Iterator[str]]] = {
    "failures": failures,
    "failure_decisions": failure_decisions,
    "messages": messages,
    "settings": all_settings,
    "profiles": profiles,
    "rungs": rungs,
    "detectors": detectors,
    "decisions": decisions,
    "subtitles": subtitles,
    "flags": flags,
    "filters": pictures_steps,
    "lastwords": last_words,
}


def rendered(text: str) -> str:
    """A page with its tables as the code has them now."""

    def fill(match: re.Match[str]) -> str:
        return f"<!-- table {match[1]} -->\n" + "\n".join(TABLES[match[1]]()) + "\n<!-- end -->"

    return re.sub(r"<!-- table (\w+) -->\n.*?<!-- end -->", fill, text, flags=re.DOTALL)


def pages() -> list[Path]:
    return sorted(path for path in DOCS.rglob("*.md") if "<!-- table " in path.read_text())


def _field_docstrings(group: type) -> dict[str, str]:
    """The string under each field; Python does not keep it."""
    module = inspect.getmodule(group)
    assert module is not None  # noqa: S101  # it was imported from one
    tree = ast.parse(inspect.getsource(module))
    [node] = [n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == group.__name__]
    found: dict[str, str] = {}
    for field, after in zip(node.body, node.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(after, ast.Expr):
            found[field.target.id] = " ".join(str(ast.literal_eval(after.value)).split())
    return found


def _shown(value: Any) -> str:
    if isinstance(value, timedelta):
        return f"{value.total_seconds():g} s"
    return "–" if value in (None, ()) else f"{value}"


def main() -> None:
    for page in pages():
        page.write_text(rendered(page.read_text()))


if __name__ == "__main__":
    main()
