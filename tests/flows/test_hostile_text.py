"""Words of a source that a terminal would obey, or that look like lines of ours: through the real command they are
shown as what they are, on the terminal and in every file that a person opens.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from flows.console import Display
from tests.support.command import Command
from tests.transfer.scripted import Scripted
from tidegate.events import Waiting

pytestmark = pytest.mark.ci


OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")

ENCRYPTED = (
    "#EXTM3U\n#EXT-X-TARGETDURATION:2\n"
    '#EXT-X-KEY:METHOD=\x1b]0;owned\x07\x9b31m\u202eFAKE,URI="k"\n#EXTINF:2,\nseg.ts\n#EXT-X-ENDLIST\n'
).encode()


def answer(status: bytes, content_type: bytes, body: bytes) -> bytes:
    head = b"HTTP/1.1 %s\r\nContent-Length: %d\r\nContent-Type: %s\r\nConnection: close\r\n\r\n"
    return head % (status, len(body), content_type) + body


@pytest.mark.parametrize(
    ("name", "said", "seen"),
    [
        ("film.mp4", answer(b"404 \x9b31mGONE\x9d0;owned\x9c", b"text/plain", b"no"), "\\x9b31mGONE"),
        ("film.m3u8", answer(b"200 OK", b"application/vnd.apple.mpegurl", ENCRYPTED), "\\x1b]0;owned\\x07"),
    ],
    ids=["the words of a status line", "a word of a playlist"],
)
def test_words_of_a_source_reach_the_terminal_and_the_reports_as_text(
    tmp_path: Path, name: str, said: bytes, seen: str
) -> None:
    def script(_: dict[str, str]) -> Iterator[bytes]:
        yield said

    command = Command(tmp_path, tmp_path / "out", {"TIDEGATE_TRANSFER_TRIES": "1"})
    with Scripted(script) as origin:
        ended = command.run(origin.url(name), as_json=False)

    assert ended.code == 1
    assert seen in ended.stderr
    (folder,) = command.published()
    shown = {path.name: path.read_text() for path in folder.iterdir()} | {"out": ended.stdout, "err": ended.stderr}
    assert {name: OBEYED.findall(text) for name, text in shown.items() if OBEYED.search(text)} == {}
    assert any(name.endswith(".err.log") for name in shown)


def test_what_a_run_waits_for_is_no_markup_of_the_terminal() -> None:
    """A word such as `[/x]` would end the command, `[link=…]` would be a link of the stranger's."""
    console = Console(force_terminal=True, width=100)
    with console.capture() as captured, Display(console, console) as display:
        display(Waiting("[/x] [link=http://127.0.0.1]\x9b31m"))
    assert "\x9b" not in captured.get()
