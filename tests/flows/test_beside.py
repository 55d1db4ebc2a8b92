"""Files beside the video, through the real command: published, sealed, reported, and made whole again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.support.clips import clip
from tests.support.command import Command


def test_subtitles_are_published_beside_the_video_and_a_missing_file_is_made_again(
    command: Command, clips: Path
) -> None:
    film = clip(clips, "h264_subtitles_mkv", seconds=4)
    ended = command.run(str(film))
    assert ended.code == 0, ended.stderr
    (folder,) = command.published()
    [beside] = folder.glob("*.vtt")
    [video] = folder.glob("*.mp4")
    assert beside.name == f"{video.stem}.subtitles-2.eng.vtt", "players find it by the video's name"
    assert "Änd the second" in beside.read_text()
    [told] = ended.document["output"]["sidecars"]
    assert told == {"path": str(beside), "stream": 2, "size_bytes": beside.stat().st_size}
    assert beside.name in (folder / "report.html").read_text()
    [meta] = folder.glob("*.meta.json")
    assert beside.name in [track["name"] for track in json.loads(meta.read_text())["seal"]["tracks"]]

    kept = beside.read_bytes()
    beside.unlink()
    again = command.run(str(film))
    assert again.code == 0, again.stderr
    assert [name for name, record in again.document["stages"].items() if not record["cached"]] == ["publish"]
    assert beside.read_bytes() == kept

    listed = subprocess.run(
        [sys.executable, "-m", "flows.runs", "--codecs", "--json"],
        env=command.env(),
        cwd=command.home,
        capture_output=True,
        text=True,
        check=True,
    )
    counted = {one["codec"]: (one["strategy"], one["outcome"], one["streams"]) for one in json.loads(listed.stdout)}
    assert counted == dict.fromkeys(("h264", "aac", "subrip"), ("copy", "completed", 1)), "a checkpoint counts once"
