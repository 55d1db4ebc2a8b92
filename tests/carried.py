"""Writes docs/carried.md: what of each container reaches the result of each profile, tried with real films.

    python -m tests.carried

A person calls it when recipes or ffmpeg change. It makes one film for each container, with all that this container can
say, lets the real stages make a result in each profile, and writes down what they tell. Everything is made in a
temporary folder; nothing is left after a crash.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import anyio
import imageio_ffmpeg
from pydantic import SecretStr

from tidegate import stages
from tidegate.model import DownloadResult, MediaInfo, ProbeResult, ProfileName, Quality, RemuxResult, Source, StreamInfo
from tidegate.settings import Settings, StoreSettings
from tidegate.stages import Workbench
from tidegate.transfer.resolvers.base import WHOLE_FILE

PAGE = Path(__file__).resolve().parents[1] / "docs" / "carried.md"
FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
H264, AAC = ("-c:v", "libx264", "-pix_fmt", "yuv420p", "-preset", "ultrafast"), ("-c:a", "aac")
FACTS = {
    "the language": "languages of tracks",
    "the title": "titles of tracks",
    "the flag": "default flags",
    "the role": "roles of tracks (commentary, forced …)",
    "the tag title": "tag: title",
    "the tag artist": "tag: artist",
    "the tag mood": "tag of one's own",
    "the chapter": "chapters",
    "the rotation": "rotation",
    "the shape": "shape of pixels",
    "the subtitle": "subtitle tracks",
    "the attached": "cover art",
    "the attachment": "attachments",
    "the data": "data tracks (timecode)",
}
"""How an entry of `not_carried` begins → the row of the table."""


@dataclass(frozen=True)
class Container:
    """A kind of file, with the words by which ffmpeg makes one that says all that it can."""

    suffix: str
    codecs: tuple[str, ...]
    has_picture: bool = True
    subtitles: str | None = None
    more: tuple[str, ...] = ()


CONTAINERS = {
    "MP4": Container("mp4", (*H264, *AAC), subtitles="mov_text", more=("-timecode", "01:00:00:00")),
    "MOV": Container("mov", (*H264, *AAC), subtitles="mov_text", more=("-movflags", "use_metadata_tags")),
    "Matroska": Container("mkv", (*H264, *AAC), subtitles="srt", more=("-default_mode", "passthrough")),
    "Matroska, codecs of discs": Container("mkv", ("-c:v", "mpeg2video", "-c:a", "ac3"), subtitles="srt"),
    "WebM": Container("webm", ("-c:v", "libvpx-vp9", "-c:a", "libopus"), subtitles="webvtt"),
    "transport stream": Container("ts", (*H264, *AAC)),
    "AVI": Container("avi", ("-c:v", "mpeg4", "-c:a", "mp3")),
    "WMV": Container("wmv", ("-c:v", "wmv2", "-c:a", "wmav2")),
    "FLV": Container("flv", (*H264, *AAC)),
    "Ogg with Opus": Container("opus", ("-c:a", "libopus"), has_picture=False),
    "FLAC": Container("flac", ("-c:a", "flac"), has_picture=False),
    "MP3": Container("mp3", ("-c:a", "mp3"), has_picture=False),
    "WAV": Container("wav", ("-c:a", "pcm_s16le"), has_picture=False),
}


def make(container: Container, folder: Path) -> Path:
    (folder / "words.srt").write_text("1\n00:00:00,100 --> 00:00:00,900\nHello\n")
    (folder / "chapters.txt").write_text(";FFMETADATA1\n[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=900\ntitle=Part\n")
    inputs = ["-f", "lavfi", "-i", "testsrc2=size=64x48:rate=10:duration=1,setsar=4/3"]
    inputs += ["-f", "lavfi", "-i", "sine=duration=1", "-i", str(folder / "words.srt")]
    inputs += ["-f", "ffmetadata", "-i", str(folder / "chapters.txt")]
    words = ["-map", "0", "-map", "1", "-map", "1"] if container.has_picture else ["-map", "1"]
    words += ["-map", "2", "-c:s", container.subtitles] if container.subtitles else []
    words += ["-map_chapters", "3", "-metadata", "title=Ebb", "-metadata", "artist=Ada", "-metadata", "mood=calm"]
    words += ["-metadata:s:a:0", "language=deu", "-metadata:s:a:0", "title=Ton", "-disposition:a:0", "default"]
    words += ["-disposition:a:1", "comment"] if container.has_picture else []
    words += ["-disposition:s:0", "forced"] if container.subtitles else []
    path = folder / f"film.{container.suffix}"
    command = [FFMPEG, "-v", "error", "-nostdin", "-y", *inputs, *words, *container.codecs, *container.more, str(path)]
    subprocess.run(command, check=True)
    return path


async def download(bench: Workbench, path: Path) -> DownloadResult:
    source = Source(url=SecretStr(path.as_uri()))
    identity, _ = await stages.identify(bench, source)
    probe = ProbeResult(
        identity=identity, resolver="local", renditions=(WHOLE_FILE,), preview=None, recorded_at=datetime.now(UTC)
    )
    return await stages.download(bench, source, probe, WHOLE_FILE, identity.key)


def facts_in(media: MediaInfo) -> set[str]:
    """Which rows of the table the source has something for."""
    return {begin for begin in FACTS if _has(media, begin)}


def _has(media: MediaInfo, begin: str) -> bool:
    names = {name.lower() for stream in media.streams for name in stream.tags} | {name.lower() for name in media.tags}
    if begin.startswith("the tag "):
        return begin.removeprefix("the tag ") in names
    if begin == "the chapter":
        return bool(media.chapters)
    return any(_says(stream, begin) for stream in media.streams)


def _says(stream: StreamInfo, begin: str) -> bool:
    said: dict[str, object] = {
        "the language": stream.language not in (None, "und"),
        "the title": stream.title,
        "the flag": stream.default,
        "the role": stream.roles,
        "the rotation": stream.rotation,
        "the shape": stream.sample_aspect,
        "the subtitle": stream.kind == "subtitle",
        "the attached": stream.attached_picture,
        "the attachment": stream.kind == "attachment",
        "the data": stream.kind == "data" and stream.packets,
    }
    return bool(said[begin])


def verdict(begin: str, result: RemuxResult) -> str:
    lost = [entry for entry in result.not_carried if entry.what.lower().startswith(begin)]
    return f"not carried: {lost[0].why}" if lost else "carried"


def rows(bench: Workbench, name: str, container: Container, folder: Path) -> Iterator[str]:
    source = anyio.run(download, bench, make(container, folder))
    results = {
        profile: anyio.run(stages.remux, bench, source, profile, Quality.AUTO, f"{name}-{profile}".replace(" ", "-"))
        for profile in ProfileName
    }
    kinds = " | ".join(f"{profile}: {result.decision.container}" for profile, result in results.items())
    yield f"\n## {name}\n"
    yield f"| | {kinds} |\n|---|---|---|---|"
    there = facts_in(source.media)
    for begin in (one for one in FACTS if one in there):
        yield f"| {FACTS[begin]} | {' | '.join(verdict(begin, result) for result in results.values())} |"


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bench = Workbench(Settings(store=StoreSettings(home=folder / "home")))
        lines = [
            "# What is carried",
            "",
            "Made by `python -m tests.carried`, which tries it with a film for each container. A row is there where",
            "the source says such a thing; what is not carried stands in each report as well, with the same reason.",
            *(line for title, kind in CONTAINERS.items() for line in rows(bench, title, kind, folder)),
        ]
    PAGE.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
