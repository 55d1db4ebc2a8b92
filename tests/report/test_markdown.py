"""The decision as Markdown: everything a person asks about it, and nothing that a stranger could slip in."""

from __future__ import annotations

import re

from tidegate.model import Aim, LadderStep, Outcome, Quality, ResourceUse, Strategy, Tried
from tidegate.report.markdown import decision_markdown, plain


def markdown_of(outcome: Outcome) -> str:
    assert outcome.remux is not None
    return decision_markdown(outcome, outcome.remux)


def test_it_tells_why_what_from_what_and_what_was_checked(outcome: Outcome) -> None:
    assert outcome.remux is not None
    text = markdown_of(outcome)
    assert text.startswith(f"# {outcome.remux.decision.strategy} to {outcome.remux.decision.container}\n")
    assert outcome.remux.verification.checks[0] in text
    assert all(f"| {step.strategy.value} |" in text for step in outcome.remux.ladder)
    assert "| picture | " in text and "| sound | " in text and "| length | " in text


def test_it_tells_a_step_down(outcome: Outcome) -> None:
    assert outcome.remux is not None
    tried = Tried(
        resolver="transcode", rendition="720p", label="a picture", failure="memory_exhausted", message="8 GB", seconds=2
    )
    used = ResourceUse(peak_memory_bytes=200_000_000)
    failed = LadderStep(
        strategy=Strategy.COPY, outcome="failed", failure="bad_timestamps", message="dts", seconds=1, resources=used
    )
    made = outcome.remux.model_copy(update={"aim": Aim(rung=Quality.P480, height=480), "ladder": (failed,)})
    text = decision_markdown(outcome.model_copy(update={"tried": (tried,)}), made)
    assert "within the limits of **480p**, at most 480 lines after a step down" in text
    assert "| a picture | memory_exhausted: 8 GB | 2.0 | |" in text
    assert "| copy | bad_timestamps: dts | 1.0 | 200.0 MB |" in text


def test_what_a_stranger_wrote_is_shown_as_text(outcome: Outcome) -> None:
    outside_code = re.sub(r"`[^`\n]*`", "", markdown_of(outcome))
    assert re.search(r"(?<!\\)[<>]", outside_code) is None
    assert "script" in outside_code, "it is there, escaped"


def test_a_name_of_several_lines_stays_in_its_place(outcome: Outcome) -> None:
    """A blank line would end the code that it is shown as, and begin a text that is Markdown."""
    name = "/films/a\n\n# b `c` ![d](http://host.example/e.png) <img src=x>.mp4"
    [line] = [
        line for line in markdown_of(outcome.model_copy(update={"source": name})).splitlines() if "/films/a" in line
    ]
    assert line.startswith("`/films/a # b c ![d](http://host.example/e.png) <img src=x>.mp4` for the profile")
    assert plain(name) == r"/films/a \# b \`c\` !\[d\](http://host.example/e.png) \<img src=x\>.mp4"
