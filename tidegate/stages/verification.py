"""Is the output what the source was? Pure comparisons of two inspections.

The download stage uses the tolerance, the remux stage the verdict. Exit codes of tools are not part of it: a cut
file remuxed with `-c copy` exits 0 and plays, only shorter.
"""

from __future__ import annotations

from tidegate.errors import Evidence, VerificationFailed
from tidegate.model import Decision, MediaInfo, StreamInfo, Verification


def tolerance_seconds(length: float) -> float:
    """How far two measurements of one duration may lie apart, in both directions: max(0.5 s, 0.5 %) (DESIGN §3)."""
    return max(0.5, 0.005 * length)


def verify(source: MediaInfo, output: MediaInfo, decision: Decision) -> Verification:
    """Compare a decoded output with the packets of its source, stream by stream.

    Raises:
        VerificationFailed: a stream is missing, shorter or longer, lost packets, or does not decode.
    """
    pairs = paired_streams(source, output, decision)
    worst = 0.0
    for ours, theirs in pairs:
        worst = max(worst, _same_length(ours, theirs))
        _decodes(ours)
    if decision.video == "copy":
        _no_packet_lost([pair for pair in pairs if pair[0].kind == "video"])
    if decision.audio == "copy":
        _no_packet_lost([pair for pair in pairs if pair[0].kind == "audio"])
    return Verification(
        checks=("streams counted", "every frame decoded", "ends compared", *_packet_check(decision)),
        decode_errors=sum(ours.edge_errors for ours, _ in pairs),
        worst_difference_seconds=round(worst, 3),
    )


def paired_streams(source: MediaInfo, output: MediaInfo, decision: Decision) -> list[tuple[StreamInfo, StreamInfo]]:
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


def _same_length(ours: StreamInfo, theirs: StreamInfo) -> float:
    expected, decoded = theirs.span_seconds or 0.0, ours.span_seconds or 0.0
    difference = abs(decoded - expected)
    if difference > tolerance_seconds(expected):
        raise VerificationFailed(
            f"The {ours.kind} decodes to {decoded:.2f} s, the source has {expected:.2f} s",
            evidence=Evidence(notes={"stream": str(ours.index), "codec": ours.codec}),
        )
    return difference


def _decodes(stream: StreamInfo) -> None:
    if not stream.frames:
        raise VerificationFailed(f"Nothing of the {stream.kind} ({stream.codec}) can be decoded")
    if stream.decode_errors:
        raise VerificationFailed(f"{stream.decode_errors} places of the {stream.kind} cannot be decoded")


def _no_packet_lost(pairs: list[tuple[StreamInfo, StreamInfo]]) -> None:
    """A muxer drops what it cannot place; by count, and in seconds so that the tolerance is the same everywhere."""
    for ours, theirs in pairs:
        before, after, length = theirs.packets or 0, ours.packets or 0, theirs.span_seconds or 0.0
        lost = max(0, before - after) / before * length if before else 0.0
        if lost > tolerance_seconds(length):
            raise VerificationFailed(f"{before - after} of {before} {ours.kind} packets are missing from the output")


def _packet_check(decision: Decision) -> tuple[str, ...]:
    return ("packets counted",) if "copy" in (decision.video, decision.audio) else ()


def _kinds(streams: list[StreamInfo]) -> str:
    return ", ".join(s.kind for s in streams) or "nothing"
