"""Random combinations of what films can say: the difference between source and result is just what the result tells.

The facts of both are read here by PyAV alone, with nothing of the engine, and counted by kind. `make test-ci` draws a
few seeds, `make test-full` five hundred. A second test takes single facts away inside the engine: each is caught.
"""

from __future__ import annotations

import random
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import av
import imageio_ffmpeg
import pytest
from av.stream import Disposition

from tests.stages.conftest import Downloaded
from tidegate.model import Decision, MediaInfo, ProfileName, Quality, RemuxResult
from tidegate.stages import Workbench, remux
from tidegate.stages import recipes as recipes_module

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
SEEDS_PER_TEST = 25
LANGUAGES = ("deu", "fra", "jpn", "por", "")
TITLES = ("Director", "Ton für Blinde", "5.1 «live»", "")
ROLES = ("", "comment", "hearing_impaired", "visual_impaired", "forced")
TAGS = {"title": "Die Ebbe", "artist": "Ada", "comment": "a=b;c\\d", "date": "2026", "mood": "calm"}
KINDS = ("language", "title", "flag", "role", "tag", "chapter", "rotation", "shape", "track")


def combine(seed: int, folder: Path) -> Path:
    """A film of one second with a random choice of features."""
    draw = random.Random(seed)
    name = f"film-{seed}.{draw.choice(('mkv', 'mp4', 'mov'))}"
    is_matroska = name.endswith("mkv")
    sounds, texts = draw.randint(0, 3), draw.randint(0, 2)
    (folder / "text.srt").write_text("1\n00:00:00,100 --> 00:00:00,900\nHello\n")
    inputs = ["-f", "lavfi", "-i", "testsrc2=size=64x48:rate=10:duration=1"]
    inputs += ["-f", "lavfi", "-i", "sine=duration=1", "-i", str(folder / "text.srt")]
    words = [
        "-map",
        "0",
        *(w for _ in range(sounds) for w in ("-map", "1")),
        *(w for _ in range(texts) for w in ("-map", "2")),
    ]
    for kind, count in (("a", sounds), ("s", texts)):
        for number in range(count):
            words += list(_labels(draw, f"{kind}:{number}"))
    for tag, text in TAGS.items():
        words += ["-metadata", f"{tag}={text}"] if draw.random() < 0.5 else []
    if draw.random() < 0.5:
        chapters = folder / "chapters.txt"
        chapters.write_text(";FFMETADATA1\n" + "".join(_chapters(draw.randint(1, 3))))
        inputs += ["-f", "ffmetadata", "-i", str(chapters)]
        words += ["-map_chapters", "3"]
    if draw.random() < 0.3:
        words += ["-vf", "setsar=4/3"]
    words += [
        "-c:s",
        "srt" if is_matroska else "mov_text",
        "-c:v",
        "libx264",
        "-preset",
        "ultrafast",
        "-pix_fmt",
        "yuv420p",
    ]
    if is_matroska and draw.random() < 0.3:
        words += ["-attach", str(folder / "text.srt"), "-metadata:s:t:0", "mimetype=text/plain"]
    flat = folder / name
    call(*inputs, *words, *(("-default_mode", "passthrough") if is_matroska else ()), flat)
    if is_matroska or draw.random() < 0.6:
        return flat
    turned = folder / f"turned-{name}"
    call(
        *("-display_rotation", draw.choice((90, 180, 270)), "-i", flat),
        *("-map", "0:v", "-map", "0:a?", "-map", "0:s?", "-c", "copy", turned),
    )
    return turned


def _labels(draw: random.Random, place: str) -> Iterator[str]:
    yield from (f"-metadata:s:{place}", f"language={draw.choice(LANGUAGES)}")
    yield from (f"-metadata:s:{place}", f"title={draw.choice(TITLES)}")
    flags = [flag for flag in (draw.choice(("", "default")), draw.choice(ROLES)) if flag]
    yield from (f"-disposition:{place}", "+".join(flags) or "0")


def _chapters(count: int) -> Iterator[str]:
    for number in range(count):
        yield f"[CHAPTER]\nTIMEBASE=1/1000\nSTART={number * 300}\nEND={number * 300 + 300}\ntitle=Part {number}\n"


def call(*words: Any) -> None:
    done = subprocess.run([FFMPEG, "-v", "error", "-nostdin", "-y", *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def facts_of(path: Path) -> Counter[tuple[str, str, int | str]]:
    """(kind of fact, what it says, which track of its kind), as PyAV reads it."""
    found: Counter[tuple[str, str, int | str]] = Counter()
    with av.open(str(path), metadata_errors="ignore") as container:
        numbers: Counter[str] = Counter()
        for stream in container.streams:
            place = f"{stream.type} {numbers[stream.type]}"
            numbers[stream.type] += 1
            found["track", stream.type, place] += 1
            if stream.type != "attachment":
                found.update((kind, text, place) for kind, text in _said(stream) if text)
        names = {name.lower(): text for name, text in container.metadata.items()}
        found.update(("tag", f"{name}={names[name]}", "file") for name in TAGS if names.get(name))
        found.update(("chapter", str(chapter["metadata"].get("title", "")), "file") for chapter in container.chapters())
    return found


def _said(stream: Any) -> Iterator[tuple[str, str]]:
    language = stream.metadata.get("language", "")
    yield "language", "" if language == "und" else {"ger": "deu", "fre": "fra"}.get(language, language)
    title = stream.metadata.get("title") or stream.metadata.get("handler_name", "")
    yield "title", "" if title.endswith("Handler") else title
    yield "flag", "default" if stream.disposition & Disposition.default else ""
    roles = [
        flag.name for flag in Disposition if stream.disposition & flag and flag.name not in ("default", "attached_pic")
    ]
    yield "role", "+".join(sorted(str(role) for role in roles))
    if stream.type == "video":
        aspect = stream.sample_aspect_ratio
        yield "shape", "" if not aspect or aspect == 1 else str(aspect)
        frame = next(stream.container.decode(stream))
        stream.container.seek(0)
        yield "rotation", str(frame.rotation % 360 or "")


def missing_kinds(
    before: Counter[tuple[str, str, int | str]], after: Counter[tuple[str, str, int | str]]
) -> Counter[str]:
    """How many facts of each kind are gone; those of a track that is gone go with it."""
    gone = {place for kind, _, place in before - after if kind == "track"}
    return Counter(kind for kind, _, place in (before - after).elements() if kind == "track" or place not in gone)


def told_kinds(result: RemuxResult) -> Counter[str]:
    words = {"the language": "language", "the title": "title", "the flag": "flag", "the role": "role", "the tag": "tag",
             "the chapter": "chapter", "the rotation": "rotation", "the shape": "shape"}  # fmt: skip
    return Counter(
        next((kind for begin, kind in words.items() if entry.what.startswith(begin)), "track")
        for entry in result.not_carried
    )


def ingest(bench: Workbench, downloaded: Downloaded, path: Path, profile: ProfileName) -> tuple[RemuxResult, Path]:
    result = anyio.run(remux, bench, downloaded(path), profile, Quality.AUTO, f"lost-{path.stem}-{profile}")
    return result, bench.store.path(result.asset, result.asset.main)


def check(seed: int, bench: Workbench, downloaded: Downloaded, folder: Path) -> None:
    path = combine(seed, folder)
    profile = random.Random(-seed).choice(list(ProfileName))
    result, output = ingest(bench, downloaded, path, profile)
    beside = Counter({"track": len(result.decision.sidecars)})
    missing = missing_kinds(facts_of(path), facts_of(output))
    assert missing == told_kinds(result), f"seed {seed}, {profile}: {result.not_carried} {beside}"


@pytest.mark.ci
def test_what_is_missing_is_what_is_told(bench: Workbench, downloaded: Downloaded, tmp_path: Path) -> None:
    for seed in range(8):
        check(seed, bench, downloaded, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("first", range(0, 500, SEEDS_PER_TEST))
def test_what_is_missing_is_what_is_told_five_hundred_times(
    first: int, bench: Workbench, downloaded: Downloaded, tmp_path: Path
) -> None:
    for seed in range(first, first + SEEDS_PER_TEST):
        check(seed, bench, downloaded, tmp_path)


@pytest.mark.ci
@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("-metadata:s:a:0", "language=und"), "the language deu"),
        (("-metadata:s:a:0", "handler_name=", "-metadata:s:a:0", "title="), "the title Director"),
        (("-map_chapters", "-1"), 'the chapter "Part 0" at 0.0 s'),
        (("-metadata", "artist="), "the tag ARTIST: Ada"),
    ],
)
def test_a_fact_that_the_engine_drops_is_caught(
    words: tuple[str, ...],
    what: str,
    bench: Workbench,
    downloaded: Downloaded,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "chapters.txt").write_text(";FFMETADATA1\n" + "".join(_chapters(1)))
    film = tmp_path / "film.mkv"
    call(
        *("-f", "lavfi", "-i", "testsrc2=size=64x48:rate=10:duration=1", "-f", "lavfi", "-i", "sine=duration=1"),
        *("-f", "ffmetadata", "-i", tmp_path / "chapters.txt", "-map", "0", "-map", "1", "-map", "1"),
        *("-c:v", "libx264", "-pix_fmt", "yuv420p", "-c:a", "aac", "-map_chapters", "2", "-metadata", "artist=Ada"),
        *("-metadata:s:a:0", "language=deu", "-metadata:s:a:0", "title=Director"),
        *("-disposition:a:1", "visual_impaired", film),
    )
    whole, _ = ingest(bench, downloaded, film, ProfileName.ORIGINAL)
    assert what not in {entry.what for entry in whole.not_carried}
    label = recipes_module.label_arguments

    def forget(decision: Decision, media: MediaInfo) -> list[str]:
        return [*label(decision, media), *words]

    monkeypatch.setattr(recipes_module, "label_arguments", forget)
    result, _ = ingest(bench, downloaded, film, ProfileName.UNIVERSAL)
    assert what in {entry.what for entry in result.not_carried}
