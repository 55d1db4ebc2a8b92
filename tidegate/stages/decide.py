"""The decision table: what a profile asks of a source, as pure functions.

The remux stage asks once for the plan and its ladder. Copying is by allow-list: ffmpeg exits 0 for many files that
players refuse. `docs/stages/remux.md` shows the same tables.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from tidegate.errors import NotMedia, RefusedByMuxer, UnsupportedCodec
from tidegate.media.codecs import COVER, UNKNOWN_CODEC
from tidegate.model import Decision, Finding, MediaInfo, ProfileName, Quality, Sidecar, Strategy, StreamInfo
from tidegate.stages.verification import tolerance_seconds

STEADY_FRAMES_PER_SECOND = 5.0
"""Below it a source shows slides, and a pause between two pictures is no hole."""
WHOLE_ONLY = frozenset({"vp8", "vp9", "av1", "theora", "gif", "png", "webp", "apng"})
"""Codecs that know no fields."""
MOST_CHANNELS = 8
"""What AAC can hold; more are mixed down to two."""
MATROSKA_SUBTITLES = frozenset({"subrip", "ass", "ssa", "webvtt", "hdmv_pgs_subtitle", "dvd_subtitle", "dvb_subtitle"})
TEXT_SUBTITLES = frozenset({"subrip", "ass", "ssa", "webvtt", "mov_text", "text"})
PICTURE_SUBTITLES: dict[str, tuple[Literal["sup", "matroska"], str]] = {
    "hdmv_pgs_subtitle": ("sup", "sup"),
    "dvd_subtitle": ("matroska", "mks"),
    "dvb_subtitle": ("matroska", "mks"),
}
"""Codec → the muxer and the suffix of the sidecar that holds it."""
MP4_COVERS = frozenset({"mjpeg", "png"})
"""What MP4 takes as attached picture."""
COVER_SUFFIXES = {"mjpeg": "jpg"}
"""Where it is not the codec's name."""
COVERS = {codec: COVER_SUFFIXES.get(codec, codec) for codec in COVER}
"""Codec of a picture → the suffix of its file, where the container takes none."""
H264_PROFILES = frozenset({"Constrained Baseline", "Baseline", "Main", "High", "Progressive High", "Constrained High"})
"""What decoders in hardware know. Lossless 4:2:0 is `High 4:4:4 Predictive`, whatever its pixel format says."""
HIGHEST_LEVEL = 52
"""H.264 level 5.2: 2160p at 60 pictures a second. Beyond it common decoders give up."""
MOST_BLOCKS = 36_864
"""Blocks of 16 × 16 pixels in a picture of H.264 level 5.2 (ITU-T H.264 table A-1, MaxFS)."""
MOST_BLOCKS_ASIDE = 543
"""And in one row or column: the root of eight times MaxFS (§A.3.1)."""
SHOWN_PIXELS = 3840 * 2160
"""What a larger picture is scaled to, in the profile that must play everywhere."""
DOLBY_ALONE = 5
"""The Dolby Vision profile whose base layer is in colours of its own (IPTPQc2)."""
FIELD_NAMES = {"tff": "top field first", "bff": "bottom field first"}
LONGEST_LANGUAGE = 12
"""Characters of a language tag in a file's name."""
FIELDS: dict[str, Literal["tff", "bff"]] = {"tt": "tff", "tb": "tff", "bb": "bff", "bt": "bff"}
"""The header's field order → which field is shown first."""


@dataclass(frozen=True)
class Allowed:
    """What may be copied into a profile's MP4."""

    video: frozenset[str]
    audio: frozenset[str]
    deepest_bits: int


ALLOWED: dict[ProfileName, Allowed] = {
    ProfileName.UNIVERSAL: Allowed(frozenset({"h264"}), frozenset({"aac"}), 8),
    ProfileName.MODERN: Allowed(
        frozenset({"h264", "hevc", "av1", "vp9"}), frozenset({"aac", "opus", "ac3", "eac3", "flac", "alac", "mp3"}), 10
    ),
    ProfileName.ORIGINAL: Allowed(
        frozenset({"h264", "hevc", "av1", "vp9", "mpeg4"}),
        frozenset({"aac", "opus", "ac3", "eac3", "flac", "alac", "mp3"}),
        16,
    ),
}
"""`original` never encodes: what its MP4 may not hold goes into Matroska, which holds everything."""


def decide(media: MediaInfo, profile: ProfileName, quality: Quality, *, can_tone_map: bool = True) -> Decision:
    """The plan for a source. `can_tone_map`: whether this ffmpeg has the filters for it.

    Raises:
        NotMedia: no stream can be kept.
        RefusedByMuxer: a profile that encodes would have to leave out sound that nobody here can decode.
    """
    media = media.of_service()
    video, audio = media.video, audible_streams(media)
    if video is None and not audio:
        raise NotMedia("No stream of the source can be kept")
    if profile is not ProfileName.ORIGINAL and any(s.codec == UNKNOWN_CODEC for s in audio):
        raise RefusedByMuxer("The sound has a codec that is not known here, and would be lost")
    if profile is ProfileName.ORIGINAL:
        return _only_the_container(media, video, audio)
    _require_common_colors(video)
    against_video = _against_copying_video(video, profile, quality) if video else []
    against_audio = [reason for stream in audio for reason in _against_copying_audio(stream, profile)]
    plan = Decision(
        strategy=Strategy.TRANSCODE if against_video or against_audio else Strategy.COPY,
        container="mp4",
        video="none" if video is None else "h264" if against_video else "copy",
        audio="none" if not audio else "aac" if against_audio else "copy",
        subtitles="mov_text" if _text_subtitles(media) else "none",
        height=_height(video, profile, quality) if video else None,
        reasons=tuple(against_video + against_audio) or (f"all codecs fit the profile {profile}",),
        keep_audio=tuple(s.index for s in audio),
        keep_subtitles=_text_subtitles(media),
        keep_covers=_mp4_covers(media),
        sidecars=plan_sidecars(media, mp4=True),
    )
    return encoding_video(plan, video, can_tone_map=can_tone_map) if against_video and video else plan


def _require_common_colors(video: StreamInfo | None) -> None:
    dolby = video.dolby_vision if video is not None else None
    if dolby is not None and dolby.compatible == 0 and dolby.profile == DOLBY_ALONE:
        raise UnsupportedCodec(
            "The picture is Dolby Vision of profile 5: other players show wrong colours, and it cannot be made right",
            hint="take --profile original, which keeps it as it is for players of Dolby Vision",
        )


def encoding_video(plan: Decision, video: StreamInfo, *, can_tone_map: bool) -> Decision:
    """The plan with what only matters where the picture is encoded: fields and HDR."""
    fields, reasons = fields_of(video), list(plan.reasons)
    if fields is not None and not any("interlaced" in reason for reason in reasons):
        reasons.append(f"the picture is interlaced, {FIELD_NAMES[fields]}")
    tone_map: Literal["zscale", "plain"] | None = None
    if video.color_transfer:
        tone_map = "zscale" if can_tone_map else "plain"
        reasons.append("HDR is reduced to SDR")
    return plan.model_copy(
        update={"video": "h264", "deinterlace": fields, "tone_map": tone_map, "reasons": tuple(reasons)}
    )


def fields_of(video: StreamInfo) -> Literal["tff", "bff"] | None:
    """Which field comes first, or None for whole pictures: as a sample showed, or else as the header says."""
    if video.scan is not None:
        return None if video.scan == "progressive" else video.scan
    return FIELDS.get(video.field_order or "")


def worth_a_look(media: MediaInfo, profile: ProfileName, decision: Decision) -> bool:
    """Whether a sample of the pictures would matter: they are encoded, or would be for what the header says."""
    if media.video is None or profile is ProfileName.ORIGINAL or media.video.codec in WHOLE_ONLY:
        return False
    return decision.video == "h264" or FIELDS.get(media.video.field_order or "") is not None


def ladder(
    decision: Decision, profile: ProfileName, media: MediaInfo, *, can_tone_map: bool = True
) -> tuple[Decision, ...]:
    """The plan and what to try after it: copy → repair → transcode. `original` never encodes."""
    repair = decision.model_copy(
        update={"strategy": Strategy.REPAIR, "reasons": ("copying did not give a complete file",)}
    )
    everything = decision.model_copy(
        update={
            "strategy": Strategy.TRANSCODE,
            "video": "none" if decision.video == "none" else "h264",
            "audio": "none" if decision.audio == "none" else "aac",
            "reasons": ("without a transcode there was no complete file",),
        }
    )
    if everything.video == "h264" and media.video is not None:
        everything = encoding_video(everything, media.video, can_tone_map=can_tone_map)
    rungs = [decision] if decision.strategy is Strategy.TRANSCODE else [decision, repair]
    if profile is not ProfileName.ORIGINAL and (everything.video, everything.audio) != (decision.video, decision.audio):
        rungs.append(everything)
    return tuple(rungs)


def smaller(decision: Decision, height: int) -> Decision:
    """The same with a picture of `height` pixels, after a larger one could not be made."""
    reason = f"scaled to {height} lines, because a larger picture could not be made"
    return decision.model_copy(update={"height": height, "reasons": (*decision.reasons, reason)})


def audible_streams(media: MediaInfo) -> tuple[StreamInfo, ...]:
    """Audio streams that hold sound; declared but empty ones exist in the wild and break muxers."""
    return tuple(s for s in media.of_kind("audio") if not _is_dead(s))


def _is_dead(audio: StreamInfo) -> bool:
    known = audio.codec != UNKNOWN_CODEC
    return audio.packets == 0 or (known and not (audio.sample_rate and audio.channels))


def findings(media: MediaInfo, decision: Decision) -> tuple[Finding, ...]:
    """What of the source the result does not have, or has otherwise."""
    media = media.of_service()
    beside = {sidecar.index for sidecar in decision.sidecars}
    found = [
        Finding(code="audio_dropped", message=f"Audio stream {s.index} ({s.codec}) is declared but holds no sound")
        for s in media.of_kind("audio")
        if s.index not in decision.keep_audio
    ]
    found += [
        Finding(code="subtitles_dropped", message=f"Subtitle stream {s.index} ({s.codec}) cannot be kept in the result")
        for s in media.of_kind("subtitle")
        if s.index not in decision.keep_subtitles and s.index not in beside
    ]
    found += [
        Finding(
            code="video_dropped", message=f"Video stream {s.index} ({s.codec}) is a second picture and was left out"
        )
        for s in media.of_kind("video")
        if s != media.video
    ]
    found += [
        Finding(code="cover_dropped", message=f"The attached picture {s.index} ({s.codec}) was left out")
        for s in media.streams
        if s.attached_picture and s.index not in decision.keep_covers and s.index not in beside
    ]
    found += [
        Finding(code="attachment_dropped", message=f"The attachment {s.file_name or s.index} ({s.codec}) was left out")
        for s in media.of_kind("attachment")
        if s.index not in decision.keep_attachments
    ]
    found += [finding for s in media.of_kind("video") + media.of_kind("audio") for finding in _damage_findings(s)]
    if decision.audio == "aac" and any((s.channels or 0) > MOST_CHANNELS for s in media.of_kind("audio")):
        found.append(
            Finding(code="audio_mixed_down", message=f"More than {MOST_CHANNELS} channels were mixed down to two")
        )
    if decision.tone_map == "zscale":
        found.append(Finding(code="hdr_tone_mapped", message="The source is HDR; the result is SDR, tone-mapped"))
    if decision.tone_map == "plain":
        message = "The source is HDR; the result is SDR without tone mapping: this ffmpeg lacks the filter zscale"
        found.append(Finding(code="hdr_reduced", message=message))
    return tuple(found)


def _damage_findings(stream: StreamInfo) -> list[Finding]:
    what = {"video": "picture", "audio": "sound"}[stream.kind]
    found = []
    is_slow = (stream.frame_rate or 0.0) < STEADY_FRAMES_PER_SECOND
    steady = stream.kind == "audio" or not (is_slow or stream.variable_rate)
    if steady and stream.gap_seconds > tolerance_seconds(stream.span_seconds or 0.0):
        message = f"The {what} is missing or stands still for {stream.gap_seconds:.1f} s in all"
        found.append(Finding(code="source_damaged", message=message))
    if stream.lead_seconds > tolerance_seconds(0.0):
        message = f"The first {stream.lead_seconds:.1f} s of the {what} cannot be decoded: it was cut in mid-GOP"
        found.append(Finding(code="source_damaged", message=message))
    return found


def plan_sidecars(media: MediaInfo, *, mp4: bool) -> tuple[Sidecar, ...]:
    """The files for beside the video: what the container does not take, and text subtitles for players that read only
    files. Streams that hold nothing make none."""
    planned = []
    for stream in media.of_kind("subtitle"):
        if stream.packets == 0 or (stream.codec in MATROSKA_SUBTITLES and not mp4):
            continue
        name = f"subtitles-{stream.index}{_language(stream)}"
        if stream.codec in TEXT_SUBTITLES:
            planned.append(Sidecar(index=stream.index, name=f"{name}.vtt", codec="webvtt", muxer="webvtt"))
        elif stream.codec in PICTURE_SUBTITLES:
            muxer, suffix = PICTURE_SUBTITLES[stream.codec]
            planned.append(Sidecar(index=stream.index, name=f"{name}.{suffix}", codec="copy", muxer=muxer))
    kept = _mp4_covers(media) if mp4 else ()
    for stream in media.streams:
        if stream.attached_picture and stream.index not in kept and stream.codec in COVERS:
            name = f"cover-{stream.index}.{COVERS[stream.codec]}"
            planned.append(Sidecar(index=stream.index, name=name, codec="copy", muxer="image2"))
    return tuple(planned)


def _language(stream: StreamInfo) -> str:
    """`.eng`, where the language is one that is safe in a file's name."""
    language = stream.language or ""
    plain = language.isascii() and language.replace("-", "").isalnum() and len(language) <= LONGEST_LANGUAGE
    return f".{language.lower()}" if plain and language != "und" else ""


def _mp4_covers(media: MediaInfo) -> tuple[int, ...]:
    return tuple(s.index for s in media.streams if s.attached_picture and s.codec in MP4_COVERS)


def _only_the_container(media: MediaInfo, video: StreamInfo | None, audio: tuple[StreamInfo, ...]) -> Decision:
    allowed = ALLOWED[ProfileName.ORIGINAL]
    fits = (video is None or video.codec in allowed.video) and all(s.codec in allowed.audio for s in audio)
    subtitles = _text_subtitles(media) if fits else _matroska_subtitles(media)
    kind: Literal["copy", "mov_text", "none"] = "none" if not subtitles else "mov_text" if fits else "copy"
    return Decision(
        strategy=Strategy.COPY,
        container="mp4" if fits else "matroska",
        video="copy" if video else "none",
        audio="copy" if audio else "none",
        subtitles=kind,
        reasons=("the profile original keeps every codec",),
        keep_audio=tuple(s.index for s in audio),
        keep_subtitles=subtitles,
        keep_covers=_mp4_covers(media) if fits else (),
        keep_attachments=() if fits else tuple(s.index for s in media.of_kind("attachment")),
        sidecars=plan_sidecars(media, mp4=fits),
    )


def _against_copying_video(video: StreamInfo, profile: ProfileName, quality: Quality) -> list[str]:
    allowed = ALLOWED[profile]
    reasons = []
    if video.codec not in allowed.video:
        reasons.append(f"{video.codec} video does not fit the profile {profile}")
    elif (video.bit_depth or 8) > (8 if video.codec == "h264" else allowed.deepest_bits):
        reasons.append(f"{video.bit_depth}-bit {video.codec} is refused by common players")
    elif not (video.pix_fmt or "yuv420p").startswith(("yuv420p", "yuvj420p")):
        reasons.append(f"{video.pix_fmt} is refused by common players")
    elif video.codec == "h264" and (video.profile or "High") not in H264_PROFILES:
        reasons.append(f"the H.264 profile {video.profile} is refused by common players")
    if profile is ProfileName.UNIVERSAL:
        reasons += _not_everywhere(video)
    if _too_high(video, quality):
        reasons.append(f"{video.shown_lines} lines are more than the {quality} that was asked for")
    return reasons


def _not_everywhere(video: StreamInfo) -> list[str]:
    """What only some players refuse, or show badly."""
    reasons = []
    if video.codec == "h264" and (video.level or 0) > HIGHEST_LEVEL:
        reasons.append(f"H.264 level {(video.level or 0) / 10:g} is more than common decoders take")
    if _too_large(video):
        reasons.append(f"{video.width} × {video.height} pixels are more than common decoders take")
    fields = fields_of(video)
    if fields is not None:
        reasons.append(f"the picture is interlaced, {FIELD_NAMES[fields]}, and browsers show both fields at once")
    return reasons


def _against_copying_audio(audio: StreamInfo, profile: ProfileName) -> list[str]:
    if audio.codec in ALLOWED[profile].audio:
        return []
    return [f"{audio.codec} audio does not fit the profile {profile}"]


def _height(video: StreamInfo, profile: ProfileName, quality: Quality) -> int | None:
    """What the picture is scaled down to; None keeps its height."""
    if _too_high(video, quality):
        return quality.height
    if profile is not ProfileName.UNIVERSAL or not _too_large(video):
        return None
    wide, tall = video.shown_size or (video.shown_lines * 16 / 9, video.shown_lines)
    return round(tall * min(1.0, math.sqrt(SHOWN_PIXELS / (wide * tall)), MOST_BLOCKS_ASIDE * 16 / max(wide, tall)))


def _too_large(video: StreamInfo) -> bool:
    tall = video.height or 0
    across, down = -(-(video.width or tall * 16 // 9) // 16), -(-tall // 16)
    return across * down > MOST_BLOCKS or max(across, down) > MOST_BLOCKS_ASIDE


def _too_high(video: StreamInfo, quality: Quality) -> bool:
    return quality.height is not None and video.shown_lines > quality.height


def _text_subtitles(media: MediaInfo) -> tuple[int, ...]:
    return tuple(s.index for s in media.of_kind("subtitle") if s.codec in TEXT_SUBTITLES)


def _matroska_subtitles(media: MediaInfo) -> tuple[int, ...]:
    return tuple(s.index for s in media.of_kind("subtitle") if s.codec in MATROSKA_SUBTITLES)
