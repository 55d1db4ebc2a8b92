"""What of the source the result has not. Pure comparisons of two inspections.

The remux stage asks once the output is verified, and writes the answer into its result: a fact of the source that is
neither in the output nor among these entries does not exist. What must never be lost at all is `verification.py`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tidegate.media.languages import name_language, same_language
from tidegate.model import Decision, MediaInfo, NotCarried, StreamInfo

# fmt: off
WRITERS = frozenset(
    (
        "encoder", "encoded_by", "major_brand", "minor_version", "compatible_brands", "handler_name",
        "vendor_id", "duration", "language", "title", "name", "filename", "mimetype", "variant_bitrate",
        "timecode", "rotate", "software", "isft", "tsse", "tool", "com.apple.quicktime.software",
        "com.android.version", "bps",
        "number_of_frames", "number_of_bytes", "source_id", "_statistics_tags", "_statistics_writing_app",
        "_statistics_writing_date_utc",
    )
)
# fmt: on
"""Tags that speak of the file which they stand in, or that are compared elsewhere: they are not the film's."""
SAME_TAGS = {
    "com.apple.quicktime.make": "make",
    "com.apple.quicktime.model": "model",
    "com.apple.quicktime.title": "title",
    "com.apple.quicktime.artist": "artist",
    "com.apple.quicktime.album": "album",
    "com.apple.quicktime.comment": "comment",
    "com.apple.quicktime.description": "description",
    "com.apple.quicktime.creationdate": "date",
    "com.apple.quicktime.location.iso6709": "location",
    "location-eng": "location",
    "description": "comment",
    "tracknumber": "track",
    "discnumber": "disc",
    "albumartist": "album_artist",
    "year": "date",
    "date_released": "date",
}
"""One tag under several names, in small letters: containers name the same thing in their own ways."""
CHAPTER_SECONDS = 0.1
"""By how much a chapter may move: containers count time in ticks of their own."""
WHOLE_STREAM = "the source"
"""Where a stream was that the result has not at all."""
TRANSPARENT = ("yuva", "gbrap", "rgba", "bgra", "argb", "abgr", "ya")
"""How the names of pixel formats with an alpha channel begin."""
KINDS = {"video": "picture", "audio": "sound track", "subtitle": "subtitle track", "attachment": "attachment"}
MP4_WHY = "MP4, as ffmpeg writes it, has no place for it"


@dataclass(frozen=True)
class Fact:
    """One thing that a stream of the source says and that its copy must say, too."""

    name: str
    of: Callable[[StreamInfo], str]
    """Empty where the stream does not say it."""
    is_same: Callable[[str, str], bool] = lambda before, after: before == after


def _join_words(words: tuple[str, ...]) -> str:
    return ", ".join(word.replace("_", " ") for word in sorted(words))


def _is_transparent(stream: StreamInfo) -> bool:
    """VP8 and VP9 carry it beside the picture, and say so in a tag."""
    alpha = {name.lower(): text for name, text in stream.tags.items()}.get("alpha_mode")
    return alpha == "1" or (stream.pix_fmt or "").startswith(TRANSPARENT)


FACTS = (
    Fact("the language", lambda s: name_language(s.language), same_language),
    Fact("the title", lambda s: s.title or ""),
    Fact("the flag", lambda s: "default" if s.default else ""),
    Fact("the role", lambda s: _join_words(s.roles)),
)
COPIED_FACTS = (
    Fact("the rotation", lambda s: f"{s.rotation}°" if s.rotation else ""),
    Fact("the shape of pixels", lambda s: f"{s.sample_aspect:.2f}" if s.sample_aspect else ""),
    Fact("the mark of colours", lambda s: s.color_primaries or ""),
    Fact("the mark of the transfer function", lambda s: s.transfer or ""),
    Fact("the mark of the matrix", lambda s: s.color_space or ""),
    Fact("the projection", lambda s: s.projection or ""),
    Fact("Dolby Vision", lambda s: f"profile {s.dolby_vision.profile}" if s.dolby_vision else ""),
    Fact("the places of the channels", lambda s: s.channel_layout or ""),
)
"""Only where a stream is copied: an encoder gets pictures that are upright, square and in colours that it is told."""
ENCODED_FACTS = (
    Fact("the transparency", lambda s: "of its pixels" if _is_transparent(s) else ""),
    Fact("the closed captions in the picture", lambda s: "608/708" if s.captions else ""),
    Fact("the projection", lambda s: s.projection or ""),
    Fact("Dolby Vision", lambda s: f"profile {s.dolby_vision.profile}" if s.dolby_vision else ""),
    Fact("HDR", lambda s: s.color_transfer or ""),
    Fact("the number of channels", lambda s: str(s.channels or "")),
)


def find_losses(source: MediaInfo, output: MediaInfo, decision: Decision) -> tuple[NotCarried, ...]:
    """Every fact of the source that the output has not, each with the reason."""
    return (
        *_miss_streams(source, decision),
        *_miss_facts(source, output, decision),
        *_miss_tags(source, output, decision),
        *_miss_chapters(source, output),
        *_other_programs(source, decision),
    )


def carry_streams(source: MediaInfo, decision: Decision) -> tuple[StreamInfo, ...]:
    """The source's streams that the output has, in the output's order."""
    video = (source.video,) if decision.video != "none" and source.video else ()
    indexes = (*decision.keep_audio, *decision.keep_subtitles, *decision.keep_covers, *decision.keep_attachments)
    by_index = {stream.index: stream for stream in source.streams}
    return (*video, *(by_index[index] for index in indexes if index in by_index))


def place_in_words(stream: StreamInfo) -> str:
    """Such as `sound track 2 (aac, deu)`: the number is that of the stream in the source."""
    kind = "attached picture" if stream.attached_picture else KINDS.get(stream.kind, "data track")
    said = ", ".join(word for word in (stream.codec, name_language(stream.language)) if word)
    return f"{kind} {stream.index} ({said})"


def _miss_streams(source: MediaInfo, decision: Decision) -> Iterator[NotCarried]:
    kept = {stream.index for stream in carry_streams(source, decision)}
    beside = {sidecar.index for sidecar in decision.sidecars}
    for stream in source.streams:
        if stream.index not in kept and stream.index not in beside and not _names_chapters(stream, source):
            yield NotCarried(
                what=f"the {place_in_words(stream)}", where=WHOLE_STREAM, why=_why_left_out(stream, decision)
            )


def _names_chapters(stream: StreamInfo, source: MediaInfo) -> bool:
    """MP4 has the names of its chapters in a track, which its demuxer has read already: they are compared by name."""
    return stream.kind == "data" and not stream.packets and bool(source.chapters) and "mp4" in source.container


def _why_left_out(stream: StreamInfo, decision: Decision) -> str:
    if stream.packets == 0:
        return "it is declared, but holds nothing"
    if stream.kind == "video" and not stream.attached_picture:
        return "a result has one picture"
    if stream.kind == "data":
        return "no player shows data tracks, and ffmpeg cannot copy all of them"
    if stream.kind == "attachment" and decision.container == "mp4":
        return "MP4 has no attachments"
    return "the result's container does not take its codec, and it cannot be a file beside"


def _miss_facts(source: MediaInfo, output: MediaInfo, decision: Decision) -> Iterator[NotCarried]:
    for before, after in zip(carry_streams(source, decision), output.streams, strict=False):
        for fact in (*FACTS, *_more_facts(before, decision)):
            said, says = fact.of(before), fact.of(after)
            if said and not fact.is_same(said, says):
                instead = f"; the result says {says}" if says else ""
                why = _why_absent(fact, decision) + instead
                yield NotCarried(what=f"{fact.name} {said}", where=place_in_words(before), why=why)


def _more_facts(stream: StreamInfo, decision: Decision) -> tuple[Fact, ...]:
    if stream.kind not in ("video", "audio") or stream.attached_picture:
        return ()
    copied = decision.video == "copy" if stream.kind == "video" else decision.audio == "copy"
    return COPIED_FACTS if copied else ENCODED_FACTS


def _why_absent(fact: Fact, decision: Decision) -> str:
    if fact in ENCODED_FACTS:
        return "the track was encoded anew, and the encoder has no place for it"
    return MP4_WHY if decision.container == "mp4" else "Matroska, as this ffmpeg writes it, has no place for it"


def _miss_tags(source: MediaInfo, output: MediaInfo, decision: Decision) -> Iterator[NotCarried]:
    found = [(normal_tag(name), text) for name, text in film_tags(output).items()]
    for name, text in film_tags(source).items():
        if not any(other == normal_tag(name) and _is_same_text(text, says) for other, says in found):
            why = MP4_WHY if decision.container == "mp4" else "Matroska, as ffmpeg writes it, has no place for it"
            yield NotCarried(what=f"the tag {name}: {_short(text)}", where="the file", why=why)


def film_tags(media: MediaInfo) -> dict[str, str]:
    """What a file says of the film: Ogg and Opus keep it on the stream of the sound."""
    on_stream = next((s.tags for s in media.of_kind("audio")), {}) if media.container == "ogg" else {}
    tags = {**on_stream, **media.tags}
    titled = {"title"} if media.container == "ogg" else set()
    return {
        n: t for n, t in tags.items() if t.strip() and (n.lower() not in WRITERS or n.lower() in titled | {"title"})
    }


def normal_tag(name: str) -> str:
    small = name.lower()
    return SAME_TAGS.get(small, small)


def _is_same_text(before: str, after: str) -> bool:
    """MP4 keeps `3` of a track number `03`, and a date or place in another spelling of the same value."""
    mine, theirs = before.strip(), after.strip()
    return mine == theirs or (bool(theirs) and mine.lstrip("0").startswith(theirs.lstrip("0").rstrip("/")))


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:59]}…"


def _miss_chapters(source: MediaInfo, output: MediaInfo) -> Iterator[NotCarried]:
    found = [(c.start_seconds, c.title) for c in output.chapters]
    for chapter in source.chapters:
        near = [title for start, title in found if abs(start - chapter.start_seconds) <= CHAPTER_SECONDS]
        if not near or (chapter.title and chapter.title not in near):
            what = f'the chapter "{chapter.title}" at {chapter.start_seconds:.1f} s'
            yield NotCarried(what=what, where="the file", why="the result's container did not take it")


def _other_programs(source: MediaInfo, decision: Decision) -> Iterator[NotCarried]:
    kept = {stream.index for stream in carry_streams(source, decision)}
    for program in source.programs:
        if len(source.programs) > 1 and not kept & set(program.streams):
            name = f" ({program.name})" if program.name else ""
            what = f"the service {program.number}{name}"
            yield NotCarried(what=what, where="the source", why="a result has one service: the first that is whole")
