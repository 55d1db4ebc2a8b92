"""The exact ffmpeg flags of each strategy; the only place that knows them.

The remux stage appends them to the input. Pure functions: the same decision gives the same command, and the flags
are chosen so that the same command gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tidegate.media.languages import mp4_language
from tidegate.model import Decision, MediaInfo, Sidecar, Strategy, StreamInfo
from tidegate.stages.carried import carry_streams, film_tags
from tidegate.stages.decide import MOST_CHANNELS

CRF = 20
"""Constant rate factor of libx264: visually near the source at moderate size."""
PRESET = "veryfast"
AUDIO_BITS_PER_CHANNEL = 80_000
"""Bit rate of AAC for each channel, in bits per second."""
HIGHEST_SAMPLE_RATE = 48_000
SAMPLE_TICKS = 7_056_000
"""Ticks per second that hold a sample of 44.1 kHz as well as of 48 kHz a whole number of times."""

TIME_BASE = "1/90000"
"""Of encoded pictures at a variable rate: exact for 24, 25, 30, 50 and 60 a second, and for transport streams."""
WHITE_NITS = 100
"""Brightness that tone mapping takes for white, in candela per square metre."""
RAW = frozenset({"h264", "hevc", "m4v", "mpegvideo"})
"""Demuxers of pictures without a container."""
ORDERED = frozenset({"h264", "hevc"})
"""Those for which ffmpeg can find out in which order pictures are shown (its filter `dts2pts`)."""
RAW_RATE = 25.0
"""Of such a stream that does not say its own; ffmpeg's choice, too."""
QUICKTIME = "com.apple.quicktime."
QUICKTIME_NAMES = frozenset({"make", "model"})
"""How tags begin, or are called, that MP4 keeps only in QuickTime's way of writing them. Android's are not among them:
that way would hide the place from those who look for it where Android writes it."""
LAYOUTS = frozenset(
    ("mono", "stereo", "2.1", "3.0", "4.0", "quad", "5.0", "5.1", "5.1(side)", "6.1", "6.1(back)", "7.0", "7.1")
)
"""Of channels: those that come out of ffmpeg's AAC with a name; others are laid out as the nearest of them."""


@dataclass(frozen=True)
class Colors:
    """How a picture is marked (ITU-T H.273), in ffmpeg's words."""

    primaries: str
    transfer: str
    matrix: str


HD = Colors("bt709", "bt709", "bt709")
SD = Colors("smpte170m", "smpte170m", "smpte170m")
"""What players take a picture without a mark to be, by its size."""
HD_WIDTH, HD_LINES = 1280, 720
PRIMARIES = frozenset({"bt709", "bt470m", "bt470bg", "smpte170m", "smpte240m", "bt2020", "smpte432"})
TRANSFERS = frozenset({"bt709", "bt470m", "bt470bg", "smpte170m", "smpte240m", "iec61966-2-1"})
ENCODER_TRANSFERS = {"bt470m": "gamma22", "bt470bg": "gamma28"}
"""Where encoders of any ffmpeg have another word than its filters."""
SCALER_WORDS = frozenset({"bt709", "fcc", "bt470bg", "smpte170m", "smpte240m", "bt2020nc"})
"""Matrices into which ffmpeg converts; other ones become the usual of the size."""
SCALER_WORDS_OF = {"bt2020nc": "bt2020"}
"""Where the filter `scale` has another word."""

_MUXING = (
    *("-max_muxing_queue_size", "4096"),
    *("-fflags", "+bitexact", "-flags:v", "+bitexact", "-flags:a", "+bitexact"),
)
_MUXERS = {"mp4": "mp4", "matroska": "matroska"}


def repair_arguments(decision: Decision, media: MediaInfo) -> tuple[str, ...]:
    """Demuxer flags, before the input: new timestamps in place of broken ones, corrupt packets left out."""
    rate = raw_rate(media)
    paced = ("-r", f"{rate:.6f}") if rate else ()
    if decision.strategy is Strategy.COPY:
        return ()
    if decision.strategy is Strategy.REPAIR:
        return ("-fflags", "+genpts+igndts+discardcorrupt")
    return ("-fflags", "+genpts", *(paced if decision.video == "h264" else ()))


def raw_rate(media: MediaInfo) -> float | None:
    """Pictures a second of a stream without a container, which has no times; None where there is one."""
    return (media.video.frame_rate or RAW_RATE) if media.video and media.container in RAW else None


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
        *_output_maps(decision, media),
        *video_arguments(decision, media, threads),
        *audio_arguments(decision, media),
        *_other_streams(decision),
        *("-map_metadata", "0", "-map_chapters", "0", "-dn"),
        *label_arguments(decision, media),
        # Only for repair: elsewhere it would undo the edit list that lets picture and sound begin together.
        *(("-avoid_negative_ts", "make_zero") if decision.strategy is Strategy.REPAIR else ()),
        *_MUXING,
        *_container(decision, media),
    ]


def _other_streams(decision: Decision) -> list[str]:
    """What becomes of the streams beside picture and sound."""
    return [
        *(("-c:s", decision.subtitles) if decision.subtitles != "none" else ()),
        *_cover_arguments(decision),
        *(("-c:t", "copy") if decision.keep_attachments else ()),
    ]


def _container(decision: Decision, media: MediaInfo) -> list[str]:
    return [
        *(_mp4_arguments(media) if decision.container == "mp4" else ("-default_mode", "passthrough")),
        *_leave(decision, media),
        *("-f", _MUXERS[decision.container]),
    ]


def _leave(decision: Decision, media: MediaInfo) -> tuple[str, ...]:
    """What ffmpeg writes into MP4 only if it is told that this is not yet a standard of its own."""
    if _holds_flac(decision, media):
        return ("-strict", "experimental")
    says_dolby = media.video is not None and media.video.dolby_vision is not None and decision.video == "copy"
    return ("-strict", "unofficial") if says_dolby and decision.container == "mp4" else ()


def _mp4_arguments(media: MediaInfo) -> tuple[str, ...]:
    """The index first. What phones say (who filmed it, with what, where) needs QuickTime's way of writing tags: in the
    usual one MP4 has no place for it."""
    needs_keys = any(name.lower() in QUICKTIME_NAMES or name.startswith(QUICKTIME) for name in media.tags)
    return ("-movflags", "+faststart+use_metadata_tags" if needs_keys else "+faststart", "-write_tmcd", "0")


def label_arguments(decision: Decision, media: MediaInfo) -> list[str]:
    """What the tracks are called, in which language and for whom, and what the file says of the film, as the source has
    it. Left alone, muxers forget some of it, and invent the rest."""
    numbers = {"video": 0, "audio": 0, "subtitle": 0}
    words: list[str] = []
    for stream in carry_streams(media, decision):
        if stream.kind in numbers and not stream.attached_picture:
            place = f"{stream.kind[0]}:{numbers[stream.kind]}"
            numbers[stream.kind] += 1
            words += _track_labels(stream, place, decision.container)
    titles = [("-metadata", f"{name}={text}") for name, text in film_tags(media).items() if name not in media.tags]
    return [*words, *(word for title in titles for word in title)]


def _track_labels(stream: StreamInfo, place: str, container: str) -> list[str]:
    flags = "+".join((*(("default",) if stream.default else ()), *stream.roles)) or "0"
    words = [f"-disposition:{place}", flags]
    if container == "mp4":
        language = mp4_language(stream.language)
        words += [f"-metadata:s:{place}", f"language={language}"] if language else []
        words += [f"-metadata:s:{place}", f"handler_name={stream.title}"] if stream.title else []
    return words


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


def _output_maps(decision: Decision, media: MediaInfo) -> list[str]:
    """Streams by their place in their file: `v` would take cover art for the film."""
    video = [media.video.index] if decision.video != "none" and media.video else []
    wanted = [*video, *decision.keep_audio, *decision.keep_subtitles, *decision.keep_covers, *decision.keep_attachments]
    return _map_arguments(wanted, _places(media))


def _map_arguments(indexes: Iterable[int], places: dict[int, str]) -> list[str]:
    return [word for index in indexes for word in ("-map", places[index])]


def _places(media: MediaInfo, inputs_before: int = 0) -> dict[int, str]:
    """Index of a stream → its input and its place there."""
    return {
        stream.index: f"{stream.track + inputs_before}:{stream.index if stream.place is None else stream.place}"
        for stream in media.streams
    }


def _cover_arguments(decision: Decision) -> list[str]:
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
        return ["-c:v:0", "copy", *tag, *_order(media)]
    return [
        *("-c:v:0", "libx264", "-preset", PRESET, "-crf", str(CRF), "-profile:v:0", "high"),
        *("-threads:v:0", str(threads)),
        # With its look-ahead on a thread of its own, x264 gave other bytes in 7 of 60 runs on a busy machine; without,
        # in none of 120, at the same speed.
        *("-x264-params", "sync-lookahead=0"),
        *_timing(media.video),
        *_color_marks(decision, media.video),
        *("-filter:v:0", ",".join(filters(decision, media.video))),
    ]


def _order(media: MediaInfo) -> tuple[str, ...]:
    """Times for a raw stream that is copied: without, its pictures are shown as they are decoded, and two are lost."""
    rate = raw_rate(media)
    if not rate or media.container not in ORDERED:
        return ()
    return ("-bsf:v:0", f"setts=dts=N/({rate:.6f}*TB):pts=NOPTS:duration=1/({rate:.6f}*TB),dts2pts")


def _color_marks(decision: Decision, video: StreamInfo) -> tuple[str, ...]:
    """For encoders of ffmpeg that do not read them from the pictures."""
    colors = colors_of(decision, video)
    transfer = ENCODER_TRANSFERS.get(colors.transfer, colors.transfer)
    marks = (("color_primaries", colors.primaries), ("color_trc", transfer), ("colorspace", colors.matrix))
    return tuple(word for name, mark in (*marks, ("color_range", "tv")) for word in (f"-{name}:v:0", mark))


def _timing(video: StreamInfo) -> tuple[str, ...]:
    """Pictures keep their times. Left alone, ffmpeg 5.1 makes a constant rate (359 pictures of 168), and all builds
    round the times to the average rate; at a steady rate that rounding is wanted, for Matroska's are of 1 ms."""
    exact = ("-enc_time_base:v:0", TIME_BASE) if video.variable_rate else ()
    return ("-fps_mode:v:0", "vfr", *exact)


def filters(decision: Decision, video: StreamInfo) -> list[str]:
    """The picture's way to 8-bit 4:2:0 with square pixels and even sides. Each step only where it is needed."""
    return [
        *([f"bwdif=mode=send_frame:parity={decision.deinterlace}:deint=all"] if decision.deinterlace else []),
        *_scale_filters(decision, video),
        *_tone_map_filters(decision, video),
        "format=yuv420p",
        *_mark_colors(decision, video),
    ]


def colors_of(decision: Decision, video: StreamInfo) -> Colors:
    """How an encoded picture is marked: as its source is, or else as players take a picture of that size to be."""
    if decision.tone_map is not None:
        return HD
    usual = HD if (video.width or 0) >= HD_WIDTH or (video.height or 0) >= HD_LINES else SD
    return Colors(
        _one_of(video.color_primaries, usual.primaries, PRIMARIES),
        _one_of(video.transfer, usual.transfer, TRANSFERS),
        _one_of(video.color_space, usual.matrix, SCALER_WORDS),
    )


def _one_of(word: str | None, usual: str, words: frozenset[str]) -> str:
    return word if word in words else usual


def _name_colors(decision: Decision, video: StreamInfo) -> list[str]:
    """Pictures without a mark get the one that players would take for granted, before anything is converted."""
    if decision.tone_map is not None or video.color_space or _is_rgb(video):
        return []
    return [f"setparams=colorspace={colors_of(decision, video).matrix}"]


def _color_options(decision: Decision, video: StreamInfo) -> str:
    """What the filter `scale` converts to: the range of television, and a matrix that players of H.264 know."""
    if decision.tone_map is not None:
        return ""
    matrix = colors_of(decision, video).matrix
    return f":out_color_matrix={SCALER_WORDS_OF.get(matrix, matrix)}:out_range=tv"


def _mark_colors(decision: Decision, video: StreamInfo) -> list[str]:
    if decision.tone_map is not None:
        return []
    colors = colors_of(decision, video)
    marks = f"color_primaries={colors.primaries}:color_trc={colors.transfer}:colorspace={colors.matrix}:range=tv"
    return [f"setparams={marks}"]


def _is_rgb(video: StreamInfo) -> bool:
    return (video.pix_fmt or "").startswith(("gbr", "rgb", "bgr", "argb", "abgr", "pal8", "0rgb", "0bgr"))


def _scale_filters(decision: Decision, video: StreamInfo) -> list[str]:
    size, colors, named = picture_size(decision, video), _color_options(decision, video), _name_colors(decision, video)
    if size is None:
        lines = f"-2:{decision.height}" if decision.height else "trunc(iw/2)*2:trunc(ih/2)*2"
        return [*named, f"scale={lines}{colors}"]
    # A line that is one too many is left out: to scale by one would blur them all. The size is a number, not a share
    # of the input's, for a source that changes its own in the middle.
    odd = ((video.width or 0) % 2 or (video.height or 0) % 2) and not decision.height
    crop = ["crop=trunc(iw/2)*2:trunc(ih/2)*2"] if odd else []
    return [*crop, *named, f"scale={size[0]}:{size[1]}{colors}", "setsar=1"]


def picture_size(decision: Decision, video: StreamInfo) -> tuple[int, int] | None:
    """Width and height of an encoded picture, in pixels: upright, square pixels, even. None: the source's is not known.

    ffmpeg turns the picture before any filter sees it.
    """
    if video.shown_size is None:
        return None
    wide, tall = video.shown_size
    shrunk = min(1.0, (decision.height or tall) / tall)
    return _even(wide * shrunk), _even(tall * shrunk)


def _even(length: float) -> int:
    return max(2, int(length + 1e-6) // 2 * 2)


def _tone_map_filters(decision: Decision, video: StreamInfo) -> list[str]:
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
        elif stream.channel_layout and stream.channel_layout not in LAYOUTS:
            words += [f"-filter:a:{position}", f"aformat=channel_layouts={'|'.join(sorted(LAYOUTS))}"]
        if (stream.sample_rate or 0) > HIGHEST_SAMPLE_RATE:
            words += [f"-ar:a:{position}", str(HIGHEST_SAMPLE_RATE)]
    return words


# --- in pieces: `stages/transcode.py` ---------------------------------------------------------------


def chunk_arguments(video: list[str], place: int, bounds: tuple[float | None, float | None], tick: str) -> list[str]:
    """One chunk of the picture, as MP4 that begins at zero: `video` are the words of `video_arguments`, `bounds` the
    moments between which its pictures are shown, `tick` the encoder's time base.

    Every picture passes just as it is dated: a constant rate would drop and repeat some.
    """
    begin, end = bounds
    limits = [
        *((f"start={begin:.6f}",) if begin is not None else ()),
        *((f"end={end:.6f}",) if end is not None else ()),
    ]
    trimmed = f"trim={':'.join(limits)},setpts=PTS-STARTPTS"
    at = next(number for number, word in enumerate(video) if word in ("-vf", "-filter:v:0")) + 1
    return [
        *("-map", f"0:{place}"),
        *video[:at],
        f"{trimmed},{video[at]}",
        *video[at + 1 :],
        *("-fps_mode:v:0", "passthrough", "-enc_time_base:v:0", tick),
        *("-map_metadata", "-1", "-map_chapters", "-1"),
        *_MUXING,
        *("-f", "mp4"),
    ]


def sound_arguments(decision: Decision, media: MediaInfo) -> list[str]:
    """All of the sound, and nothing else, as it would be in the whole file."""
    return [
        *_map_arguments(decision.keep_audio, _places(media)),
        *audio_arguments(decision, media),
        *("-map_metadata", "-1", "-map_chapters", "-1"),
        *_MUXING,
        # Where the sound begins is told to a sample: in MP4's usual milliseconds it would be rounded twice.
        *("-f", "mp4", "-movie_timescale", str(SAMPLE_TICKS)),
    ]


def join_arguments(decision: Decision, media: MediaInfo, sources: int, encoder: str) -> list[str]:
    """The whole file from its parts: input 0 is the picture, then come the sources, then the sound if it was encoded.

    The result is to be what one call would make of the source, also in what it says of its streams; `encoder` is what
    made the picture.
    """
    assert media.video is not None  # noqa: S101  # only a picture is cut into chunks
    places = _places(media, inputs_before=1)
    encoded = decision.audio == "aac"
    sound = [f"{sources + 1}:{number}" for number in range(len(decision.keep_audio))]
    return [
        *("-map", "0:0"),
        *(word for place in sound for word in ("-map", place) if encoded),
        *([] if encoded else _map_arguments(decision.keep_audio, places)),
        *_map_arguments((*decision.keep_subtitles, *decision.keep_covers, *decision.keep_attachments), places),
        *("-c:v:0", "copy"),
        *(("-c:a", "copy") if decision.audio != "none" else ()),
        *_other_streams(decision),
        *("-map_metadata", "1", "-map_chapters", "1", "-dn"),
        *_stream_metadata(decision, media, places),
        *("-metadata:s:v:0", f"encoder=Lavc {encoder}"),
        *(word for n, _ in enumerate(sound) for word in (f"-metadata:s:a:{n}", "encoder=Lavc aac") if encoded),
        *label_arguments(decision, media),
        *_MUXING,
        *_container(decision, media),
    ]


def _stream_metadata(decision: Decision, media: MediaInfo, places: dict[int, str]) -> list[str]:
    """Language and title of each stream of the output are the source's."""
    assert media.video is not None  # noqa: S101
    kinds = {
        "v": (media.video.index, *decision.keep_covers),
        "a": decision.keep_audio,
        "s": decision.keep_subtitles,
        "t": decision.keep_attachments,
    }
    return [
        word
        for kind, indexes in kinds.items()
        for number, index in enumerate(indexes)
        for word in (f"-map_metadata:s:{kind}:{number}", places[index].replace(":", ":s:"))
    ]
