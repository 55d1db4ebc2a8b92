"""The exact ffmpeg flags of each strategy; the only place that knows them.

The remux stage appends them to the input. Pure functions: the same decision gives the same command, and the flags
are chosen so that the same command gives the same bytes.
"""

from __future__ import annotations

from tidegate.model import Decision, MediaInfo, Sidecar, Strategy, StreamInfo
from tidegate.stages.decide import MOST_CHANNELS

CRF = 20
"""Constant rate factor of libx264: visually near the source at moderate size."""
PRESET = "veryfast"
AUDIO_BITS_PER_CHANNEL = 80_000
"""Bit rate of AAC for each channel, in bits per second."""
HIGHEST_SAMPLE_RATE = 48_000

TIME_BASE = "1/90000"
"""Of encoded pictures at a variable rate: exact for 24, 25, 30, 50 and 60 a second, and for transport streams."""
WHITE_NITS = 100
"""Brightness that tone mapping takes for white, in candela per square metre."""
ODDEST_ASPECT = 4.0
"""A pixel wider or narrower than this is a mistake in the header."""

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
        *_covers(decision),
        *(("-c:t", "copy") if decision.keep_attachments else ()),
        *("-map_metadata", "0", "-map_chapters", "0", "-dn"),
        # Only for repair: elsewhere it would undo the edit list that lets picture and sound begin together.
        *(("-avoid_negative_ts", "make_zero") if decision.strategy is Strategy.REPAIR else ()),
        *("-max_muxing_queue_size", "4096"),
        *("-fflags", "+bitexact", "-flags:v", "+bitexact", "-flags:a", "+bitexact"),
        *(("-movflags", "+faststart", "-write_tmcd", "0") if decision.container == "mp4" else ()),
        *(("-strict", "experimental") if _holds_flac(decision, media) else ()),
        *("-f", _MUXERS[decision.container]),
    ]


def _holds_flac(decision: Decision, media: MediaInfo) -> bool:
    """FLAC that is copied into MP4: ffmpeg 5.1 refuses it unless it is told that this is an experiment."""
    kept = [s for s in media.of_kind("audio") if s.index in decision.keep_audio and s.codec == "flac"]
    return bool(kept) and decision.audio == "copy" and decision.container == "mp4"


def sidecar_arguments(sidecar: Sidecar, media: MediaInfo) -> list[str]:
    """Everything between the input and the sidecar's name."""
    kind = "v" if sidecar.muxer == "image2" else "s"
    one = ("-update", "1", "-frames:v", "1") if sidecar.muxer == "image2" else ()
    return [
        *("-map", _places(media)[sidecar.index], f"-c:{kind}", sidecar.codec, *one),
        *("-map_metadata", "-1", "-map_chapters", "-1", "-fflags", "+bitexact", "-f", sidecar.muxer),
    ]


def _maps(decision: Decision, media: MediaInfo) -> list[str]:
    """Streams by their place in their file: `v` would take cover art for the film."""
    video = [media.video.index] if decision.video != "none" and media.video else []
    wanted = [*video, *decision.keep_audio, *decision.keep_subtitles, *decision.keep_covers, *decision.keep_attachments]
    places = _places(media)
    return [word for index in wanted for word in ("-map", places[index])]


def _places(media: MediaInfo) -> dict[int, str]:
    """Index of a stream → its input and its place there."""
    return {
        stream.index: f"{stream.track}:{stream.index if stream.place is None else stream.place}"
        for stream in media.streams
    }


def _covers(decision: Decision) -> list[str]:
    """Attached pictures come after the film, if there is one, and are never encoded."""
    first = 0 if decision.video == "none" else 1
    return [
        word
        for number in range(first, first + len(decision.keep_covers))
        for word in (f"-c:v:{number}", "copy", f"-disposition:v:{number}", "attached_pic")
    ]


def video_arguments(decision: Decision, media: MediaInfo, threads: int) -> list[str]:
    """The picture's codec and filters, without its map: for the whole file or for a piece of it. It must be the first
    video stream of the output."""
    if decision.video == "none" or media.video is None:
        return []
    if decision.video == "copy":
        # Apple's players refuse HEVC under the tag hev1, which is the muxer's choice for many sources.
        tag = ["-tag:v:0", "hvc1"] if media.video.codec == "hevc" and decision.container == "mp4" else []
        return ["-c:v:0", "copy", *tag]
    return [
        *("-c:v:0", "libx264", "-preset", PRESET, "-crf", str(CRF), "-profile:v:0", "high"),
        *("-threads:v:0", str(threads)),
        # With its look-ahead on a thread of its own, x264 gave other bytes in 7 of 60 runs on a busy machine; without,
        # in none of 120, at the same speed.
        *("-x264-params", "sync-lookahead=0"),
        *_timing(media.video),
        *("-filter:v:0", ",".join(filters(decision, media.video))),
    ]


def _timing(video: StreamInfo) -> tuple[str, ...]:
    """Pictures keep their times. Left alone, ffmpeg 5.1 makes a constant rate (359 pictures of 168), and all builds
    round the times to the average rate; at a steady rate that rounding is wanted, for Matroska's are of 1 ms."""
    exact = ("-enc_time_base:v:0", TIME_BASE) if video.variable_rate else ()
    return ("-fps_mode:v:0", "vfr", *exact)


def filters(decision: Decision, video: StreamInfo) -> list[str]:
    """The picture's way to 8-bit 4:2:0 with square pixels and even sides. Each step only where it is needed."""
    return [
        *([f"bwdif=mode=send_frame:parity={decision.deinterlace}:deint=all"] if decision.deinterlace else []),
        *_resized(decision, video),
        *_tone_mapped(decision, video),
        "format=yuv420p",
    ]


def _resized(decision: Decision, video: StreamInfo) -> list[str]:
    size = picture_size(decision, video)
    if size is None:
        return [f"scale=-2:{decision.height}" if decision.height else "scale=trunc(iw/2)*2:trunc(ih/2)*2"]
    # A line that is one too many is left out: to scale by one would blur them all. The size is a number, not a share
    # of the input's, for a source that changes its own in the middle.
    odd = ((video.width or 0) % 2 or (video.height or 0) % 2) and not decision.height
    crop = ["crop=trunc(iw/2)*2:trunc(ih/2)*2"] if odd else []
    return [*crop, f"scale={size[0]}:{size[1]}", "setsar=1"]


def picture_size(decision: Decision, video: StreamInfo) -> tuple[int, int] | None:
    """Width and height of an encoded picture, in pixels: upright, square pixels, even. None: the source's is not known.

    ffmpeg turns the picture before any filter sees it.
    """
    if not video.width or not video.height:
        return None
    shrunk = min(1.0, (decision.height or video.height) / video.height)
    aspect = video.sample_aspect or 1.0
    wide = video.width * (aspect if 1 / ODDEST_ASPECT <= aspect <= ODDEST_ASPECT else 1.0)
    size = _even(wide * shrunk), _even(video.height * shrunk)
    return size if video.rotation % 180 == 0 else (size[1], size[0])


def _even(length: float) -> int:
    return max(2, int(length + 1e-6) // 2 * 2)


def _tone_mapped(decision: Decision, video: StreamInfo) -> list[str]:
    """HDR to the colours and the range of ordinary screens, told to the encoder as such."""
    if decision.tone_map is None:
        return []
    marks = "setparams=color_primaries=bt709:color_trc=bt709:colorspace=bt709:range=tv"
    if decision.tone_map == "plain":
        return ["format=yuv420p", marks]
    primaries, matrix = video.color_primaries or "bt2020", video.color_space or "bt2020nc"
    known = f"pin={primaries}:min={matrix}:tin={video.color_transfer}"
    return [
        f"zscale={known}:t=linear:npl={WHITE_NITS}",
        "format=gbrpf32le",
        "zscale=p=bt709",
        "tonemap=hable:desat=0",
        "zscale=t=bt709:m=bt709:r=tv",
        marks,
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
