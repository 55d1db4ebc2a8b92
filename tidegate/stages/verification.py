"""Is the output what the source was? Pure comparisons of two inspections.

The download stage uses the tolerance, the remux stage the verdict. Exit codes of tools are not part of it: a cut
file remuxed with `-c copy` exits 0 and plays, only shorter.
"""

from __future__ import annotations

from typing import Literal

from tidegate.errors import Evidence, VerificationFailed
from tidegate.model import Decision, Finding, MediaInfo, StreamInfo, Verification
from tidegate.settings import ProcessSettings

SKEW_SECONDS = 1.0
"""By how much the ends of picture and sound may move against each other, however long the film: 0.5 s each."""
ENCODED_SHARE = 0.02
"""Share of frames that encoding may merge: repeated and empty frames of a source with a variable rate."""


_WHAT = {"video": "picture", "audio": "sound"}


def tolerance_seconds(length: float) -> float:
    """How far two measurements of one duration may lie apart, in both directions: max(0.5 s, 0.5 %) (DESIGN §3)."""
    return max(0.5, 0.005 * length)


def depth_for(limits: ProcessSettings, size_bytes: int) -> Literal["frames", "sampled"]:
    """How deep an output of this size is inspected."""
    if limits.verify == "auto":
        return "frames" if size_bytes <= limits.verify_full_below else "sampled"
    return "frames" if limits.verify == "full" else "sampled"


def verify(source: MediaInfo, output: MediaInfo, decision: Decision) -> Verification:
    """Compare a decoded output with the packets of its source, stream by stream.

    Raises:
        VerificationFailed: a stream is missing, shorter or longer, shifted, lost packets or frames, or does not decode.
    """
    pairs = pair_streams(source, output, decision)
    worst = skew = 0.0
    for ours, theirs in pairs:
        worst = max(worst, _compare_lengths(ours, theirs), _compare_starts(ours, theirs, pairs[0]))
        skew = max(skew, _compare_ends(ours, theirs, pairs[0]))
        _require_decodable(ours)
        copied = decision.video == "copy" if ours.kind == "video" else decision.audio == "copy"
        _require_all_packets(ours, theirs, copied=copied, sampled=output.depth == "sampled")
    _require_covers(output, decision)
    longest = max((ours for ours, _ in pairs), key=lambda ours: ours.span_seconds or 0.0)
    length = longest.span_seconds or 0.0
    sampled = output.depth == "sampled"
    return Verification(
        checks=(
            "streams counted",
            "samples decoded, every packet counted" if sampled else "every frame decoded",
            "lengths, places and ends compared",
            "packets and frames counted",
        ),
        depth="sampled" if sampled else "full",
        decoded_seconds=round(min(length, longest.decoded_seconds or 0.0) if sampled else length, 3),
        length_seconds=round(length, 3),
        end_skew_seconds=round(skew, 3),
        decode_errors=sum(ours.edge_errors for ours, _ in pairs),
        worst_difference_seconds=round(worst, 3),
    )


def pair_streams(source: MediaInfo, output: MediaInfo, decision: Decision) -> list[tuple[StreamInfo, StreamInfo]]:
    """(output, source) for every picture and sound stream that the decision keeps.

    Raises:
        VerificationFailed: the output has more or fewer.
    """
    wanted = [source.video] if decision.video != "none" and source.video else []
    kept = [s for s in source.of_kind("audio") if s.index in decision.keep_audio]
    expected: list[StreamInfo] = [*wanted, *kept]
    found = [*output.of_kind("video"), *output.of_kind("audio")]
    if [s.kind for s in expected] != [s.kind for s in found]:
        raise VerificationFailed(f"The output has {_kinds(found)}, expected {_kinds(expected)}")
    return list(zip(found, expected, strict=True))


def _compare_lengths(ours: StreamInfo, theirs: StreamInfo) -> float:
    expected, decoded = theirs.span_seconds or 0.0, ours.span_seconds or 0.0
    difference = abs(decoded - expected)
    if _have_last(ours, theirs):  # how long the last picture stays is told by containers in ways that differ
        difference = min(difference, abs((ours.last_seconds or 0.0) - (theirs.last_seconds or 0.0)))
    if difference > tolerance_seconds(expected):
        raise VerificationFailed(
            f"The {ours.kind} decodes to {decoded:.2f} s, the source has {expected:.2f} s",
            evidence=Evidence(notes={"stream": str(ours.index), "codec": ours.codec}),
        )
    return difference


def _require_decodable(stream: StreamInfo) -> None:
    if not stream.frames:
        raise VerificationFailed(f"Nothing of the {stream.kind} ({stream.codec}) can be decoded")
    if stream.decode_errors:
        raise VerificationFailed(f"{stream.decode_errors} places of the {stream.kind} cannot be decoded")


def _compare_starts(ours: StreamInfo, theirs: StreamInfo, first: tuple[StreamInfo, StreamInfo]) -> float:
    """Sound that is whole but shifted against the picture is damaged all the same."""
    places = (ours.start_seconds, theirs.start_seconds, first[0].start_seconds, first[1].start_seconds)
    if any(place is None for place in places):
        return 0.0
    our_start, their_start, our_first, their_first = (place or 0.0 for place in places)
    shift = abs((our_start - our_first) - (their_start - their_first))
    if shift > tolerance_seconds(0.0):
        raise VerificationFailed(f"The {ours.kind} is shifted by {shift:.2f} s against the source")
    return shift


def _compare_ends(ours: StreamInfo, theirs: StreamInfo, first: tuple[StreamInfo, StreamInfo]) -> float:
    """Sound that runs away from the picture: each may be as long as it may, and both differ in other directions.

    By the length that was held: where recordings were joined, the last end tells nothing of the first piece.
    """
    by_last = _have_last(*first)
    ends = [_end(stream, by_last=by_last) for stream in (ours, theirs, *first)]
    if any(end is None for end in ends):
        return 0.0
    our_end, their_end, our_first, their_first = (end or 0.0 for end in ends)
    skew = abs((our_end - our_first) - (their_end - their_first))
    if skew > SKEW_SECONDS:
        raise VerificationFailed(f"The end of the {ours.kind} has moved by {skew:.2f} s against the picture")
    return skew


def _have_last(*streams: StreamInfo) -> bool:
    return all(stream.kind == "video" and stream.last_seconds is not None for stream in streams)


def _end(stream: StreamInfo, *, by_last: bool) -> float | None:
    if by_last and stream.kind == "video":
        return (stream.start_seconds or 0.0) + (stream.last_seconds or 0.0)
    return None if stream.span_seconds is None else (stream.start_seconds or 0.0) + stream.span_seconds


def _require_covers(output: MediaInfo, decision: Decision) -> None:
    found = sum(stream.attached_picture for stream in output.streams)
    if found < len(decision.keep_covers):
        raise VerificationFailed(f"The output has {found} attached pictures, expected {len(decision.keep_covers)}")


def _require_all_packets(ours: StreamInfo, theirs: StreamInfo, *, copied: bool, sampled: bool = False) -> None:
    """Tools drop what they cannot place; counted, and told in seconds so that the tolerance is the same everywhere."""
    if not copied and ours.kind == "audio":
        _require_all_sound(ours, theirs)
        return
    before, after = theirs.packets or 0, (ours.packets if copied or sampled else ours.frames) or 0
    if not copied and theirs.field_order not in (None, "progressive"):
        before //= 2  # each field may be a packet of its own
    length = theirs.span_seconds or 0.0
    lost = max(0, before - after) / before * length if before else 0.0
    merges = not copied and theirs.variable_rate
    if lost > (max(0.5, ENCODED_SHARE * length) if merges else tolerance_seconds(length)):
        unit = "packets" if copied else "frames"
        raise VerificationFailed(f"{before - after} of {before} {ours.kind} {unit} are missing from the output")


def damage_of(source: MediaInfo, output: MediaInfo, decision: Decision) -> tuple[Finding, ...]:
    """What the output lacks within the tolerance: what of the source could not be decoded stands still in it."""
    lost = [
        (ours, ours.gap_seconds - theirs.gap_seconds)
        for ours, theirs in pair_streams(source, output, decision)
        if ours.gap_seconds - theirs.gap_seconds > tolerance_seconds(0.0)
    ]
    return tuple(
        Finding(code="source_damaged", message=f"{seconds:.1f} s of the {_WHAT[ours.kind]} could not be decoded")
        for ours, seconds in lost
    )


def _require_all_sound(ours: StreamInfo, theirs: StreamInfo) -> None:
    before, after = theirs.covered_seconds, ours.covered_seconds
    if before is None or after is None:
        return
    if before - after > tolerance_seconds(before):
        raise VerificationFailed(f"{before - after:.2f} s of the {ours.kind} are missing from the output")


def _kinds(streams: list[StreamInfo]) -> str:
    return ", ".join(s.kind for s in streams) or "nothing"
