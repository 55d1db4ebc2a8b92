"""The exact ffmpeg flags of each strategy; the only place that knows them.

The remux stage appends them to the input. Pure functions: the same decision gives the same command, and the flags
are chosen so that the same command gives the same bytes.
"""

from __future__ import annotations

from tidegate.model import Decision, MediaInfo, Strategy
from tidegate.stages.decide import MOST_CHANNELS

CRF = 20
"""Constant rate factor of libx264: visually near the source at moderate size."""
PRESET = "veryfast"
AUDIO_BITS_PER_CHANNEL = 80_000
"""Bit rate of AAC for each channel, in bits per second."""
HIGHEST_SAMPLE_RATE = 48_000

_MUXERS = {"mp4": "mp4", "matroska": "matroska"}


def repair_arguments(decision: Decision) -> tuple[str, ...]:
    """Demuxer flags, before the input: new timestamps in place of broken ones, corrupt packets left out."""
    if decision.strategy is Strategy.COPY:
        return ()
    if decision.strategy is Strategy.REPAIR:
        return ("-fflags", "+genpts+igndts+discardcorrupt")
    return ("-fflags", "+genpts")


def offsets_seconds(media: MediaInfo) -> list[float]:
    """How far each track begins after the first to begin. ffmpeg lets every input begin at zero; these undo it."""
    count = max((stream.track for stream in media.streams), default=0) + 1
    starts = [
        min((s.start_seconds for s in media.streams if s.track == track and s.start_seconds is not None), default=0.0)
        for track in range(count)
    ]
    return [start - min(starts) for start in starts]


def output_arguments(decision: Decision, media: MediaInfo, threads: int) -> list[str]:
    """Everything between the input and the output's name."""
    return [
        *_maps(decision, media),
        *video_arguments(decision, media, threads),
        *audio_arguments(decision, media),
        *(("-c:s", decision.subtitles) if decision.subtitles != "none" else ()),
        *("-map_metadata", "0", "-map_chapters", "0", "-dn"),
        # Only for repair: elsewhere it would undo the edit list that lets picture and sound begin together.
        *(("-avoid_negative_ts", "make_zero") if decision.strategy is Strategy.REPAIR else ()),
        *("-max_muxing_queue_size", "4096"),
        *("-fflags", "+bitexact", "-flags:v", "+bitexact", "-flags:a", "+bitexact"),
        *(("-movflags", "+faststart", "-write_tmcd", "0") if decision.container == "mp4" else ()),
        *("-f", _MUXERS[decision.container]),
    ]


def _maps(decision: Decision, media: MediaInfo) -> list[str]:
    """Streams by their place in their file: `v` would take cover art for the film."""
    video = [media.video.index] if decision.video != "none" and media.video else []
    wanted = [*video, *decision.keep_audio, *decision.keep_subtitles]
    places = {
        stream.index: f"{stream.track}:{stream.index if stream.place is None else stream.place}"
        for stream in media.streams
    }
    return [word for index in wanted for word in ("-map", places[index])]


def video_arguments(decision: Decision, media: MediaInfo, threads: int) -> list[str]:
    """The picture's codec and filters, without its map: for the whole file or for a piece of it."""
    if decision.video == "none" or media.video is None:
        return []
    if decision.video == "copy":
        # Apple's players refuse HEVC under the tag hev1, which is the muxer's choice for many sources.
        tag = ["-tag:v", "hvc1"] if media.video.codec == "hevc" and decision.container == "mp4" else []
        return ["-c:v", "copy", *tag]
    size = f"-2:{decision.height}" if decision.height else "trunc(iw/2)*2:trunc(ih/2)*2"
    return [
        *("-c:v", "libx264", "-preset", PRESET, "-crf", str(CRF), "-profile:v", "high"),
        *("-threads", str(threads)),
        # With its look-ahead on a thread of its own, x264 gave other bytes in 7 of 60 runs on a busy machine; without,
        # in none of 120, at the same speed.
        *("-x264-params", "sync-lookahead=0"),
        *("-vf", f"bwdif=deint=interlaced,scale={size},format=yuv420p"),
    ]


def audio_arguments(decision: Decision, media: MediaInfo) -> list[str]:
    """The codecs of every kept audio stream, without their maps."""
    if decision.audio == "none":
        return []
    if decision.audio == "copy":
        return ["-c:a", "copy"]
    kept = [s for s in media.of_kind("audio") if s.index in decision.keep_audio]
    words = ["-c:a", "aac"]
    for position, stream in enumerate(kept):
        words += [f"-b:a:{position}", str(AUDIO_BITS_PER_CHANNEL * min(stream.channels or 2, 8))]
        if (stream.channels or 0) > MOST_CHANNELS:
            words += [f"-ac:a:{position}", "2"]
        if (stream.sample_rate or 0) > HIGHEST_SAMPLE_RATE:
            words += [f"-ar:a:{position}", str(HIGHEST_SAMPLE_RATE)]
    return words
