"""A cut file never ends as completed, whatever the profile; where nothing can tell its length, the report says so."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from tests.support.aftermath import failure_told, nothing_left_but_evidence
from tests.support.clips import clip, cut
from tests.support.command import Command
from tests.support.origin import Origin, Resource

SHARE = 0.4


@pytest.mark.parametrize(
    "profile",
    [
        "universal",
        pytest.param("modern", marks=pytest.mark.slow),
        pytest.param("original", marks=pytest.mark.slow),
    ],
)
def test_a_cut_mp4_and_a_cut_mkv_fail_from_an_origin_and_from_disk(profile: str, command: Command, clips: Path) -> None:
    mp4, mkv = cut(clip(clips, "h264_aac_mp4"), SHARE), cut(clip(clips, "h264_aac_mkv"), SHARE)
    index_last = cut(clip(clips, "h264_aac_moov_last_mp4"), SHARE)
    with Origin({"film.mp4": mp4, "film.mkv": mkv}) as origin:
        sources = [origin.url("film.mp4"), origin.url("film.mkv"), str(mp4), str(mkv), str(index_last)]
        ended = command.run(*sources, "--profile", profile, timeout=180)
    assert ended.code == 1, "all of them failed"
    told = ended.document["results"]
    assert {one["status"] for one in told} == {"failed"}
    assert [one["failure"]["type"] for one in told] == ["truncated_media"] * 4 + ["not_media"]
    assert {one["failure"]["stage"] for one in told[:4]} == {"download"}, "refused before a tool could make it whole"
    nothing_left_but_evidence(command)


@pytest.mark.parametrize("story", ["from-first: ok, 64K cut, 0 cut", "always: ignore-range 64K cut"])
def test_a_ts_whose_body_is_cut_fails_because_its_length_was_told(story: str, command: Command, clips: Path) -> None:
    with Origin({"film.ts": Resource(clip(clips, "h264_aac_ts"), story=story)}) as origin:
        ended = command.run(origin.url("film.ts"))
    failure_told(ended, code=1, kind="truncated_body")
    nothing_left_but_evidence(command)


def test_a_cut_ts_fails_the_digest_of_the_whole(command: Command, clips: Path) -> None:
    film = clip(clips, "h264_aac_ts")
    whole = hashlib.sha256(film.read_bytes()).hexdigest()
    failure_told(command.run(str(cut(film, SHARE)), "--sha256", whole), code=1, kind="wrong_digest")
    nothing_left_but_evidence(command)


def test_a_ts_that_the_digest_confirms_has_no_finding(command: Command, clips: Path) -> None:
    film = clip(clips, "h264_aac_ts")
    whole = hashlib.sha256(film.read_bytes()).hexdigest()
    ended = command.run(str(film), "--sha256", whole)
    assert ended.code == 0, ended.stderr
    assert finding_codes(ended.document) == []


def test_a_cut_ts_on_disk_completes_and_says_that_its_length_cannot_be_confirmed(command: Command, clips: Path) -> None:
    ended = command.run(str(cut(clip(clips, "h264_aac_ts"), SHARE)))
    assert ended.code == 0, ended.stderr
    assert "length_unconfirmed" in finding_codes(ended.document)
    assert "cannot be confirmed" in ended.stderr
    (folder,) = command.published()
    assert "cannot be confirmed" in (folder / "report.html").read_text()


def test_a_ts_that_ends_where_its_connection_ends_cannot_be_confirmed_either(command: Command, clips: Path) -> None:
    film = cut(clip(clips, "h264_aac_ts"), SHARE)
    with Origin({"film.ts": Resource(film, story="always: ignore-range close-delimited")}) as origin:
        ended = command.run(origin.url("film.ts"))
    assert ended.code == 0, ended.stderr
    assert "length_unconfirmed" in finding_codes(ended.document)


def finding_codes(document: dict[str, Any]) -> list[str]:
    return [finding["code"] for finding in document["findings"]]
