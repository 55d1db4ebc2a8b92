"""Tokens in links and headers travel to their origin, and appear nowhere else: no output, no file, no server."""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.aftermath import failure_told, secret_files
from tests.support.clips import clip
from tests.support.command import Command, Ended
from tests.support.origin import Origin, Resource

TOKEN = "tok-5f1c0a7e93"
HEADER = "hdr-b82d4e6f10"
PASSWORD = "pw-77c3a9d2e4"
SECRETS = (TOKEN, HEADER, PASSWORD)


@dataclass(frozen=True)
class Ending:
    """One way in which a run with secrets ends."""

    title: str
    story: str
    code: int
    words: tuple[str, ...] = ()


ENDINGS = [
    Ending("done, and verbose", "ok", 0, ("--verbose",)),
    Ending("refused", "always: 403", 1),
    Ending("down", "always: 500", 1),
    Ending("a page", "always: html", 1),
    Ending("in a loop", "always: redirect-loop", 1),
]


@pytest.mark.parametrize("ending", ENDINGS, ids=lambda ending: ending.title)
def test_secrets_reach_the_origin_and_nothing_else(
    ending: Ending, command: Command, clips: Path, prefect_server: str
) -> None:
    with Origin({"film.mp4": Resource(clip(clips), story=ending.story)}) as origin:
        ended = command.run(*request(origin), *ending.words)
    assert ended.code == ending.code, ended.stderr
    first = origin.requests[0]
    assert TOKEN in first.query and first.headers["x-api-key"] == HEADER
    assert first.headers["authorization"] == "Basic " + base64.b64encode(f"me:{PASSWORD}".encode()).decode()
    assert told_in(ended) == []
    assert secret_files(command) == [], "the command takes its secrets along when it ends"
    assert found_below(command.home, command.output) == []
    assert known_to(prefect_server, flow_run_of(ended)) == []


def test_a_batch_keeps_its_secrets_too(command: Command, clips: Path, prefect_server: str) -> None:
    with Origin({"film.mp4": clip(clips)}) as origin:
        link, *headers = request(origin)
        ended = command.run(link, link.replace("film", "nothing"), *headers, "--until", "probe")
    assert ended.code == 3, ended.stderr
    assert told_in(ended) == [] and secret_files(command) == []
    assert found_below(command.home, command.output) == []
    for one in ended.document["results"]:
        assert known_to(prefect_server, one["flow_run_id"]) == []


def test_a_secret_that_bad_usage_repeats_is_not_shown(command: Command) -> None:
    ended = command.run(
        f"http://me:{PASSWORD}@127.0.0.1:99999/film.mp4?token={TOKEN}", "--header", f"X-Api-Key: {HEADER}"
    )
    failure_told(ended, code=2, kind="bad_input")
    assert told_in(ended) == []
    assert found_below(command.home) == []


def test_a_secret_in_use_can_be_read_by_its_owner_only(command: Command, clips: Path) -> None:
    resource = Resource(clip(clips), story="always: 100K stall")
    with Origin({"film.mp4": resource}) as origin, command.started(*request(origin)):
        origin.wait_for(lambda o: o.bytes_sent("film.mp4") >= 100 * 1024, timeout_seconds=60)
        (kept,) = secret_files(command)
        assert kept.stat().st_mode & 0o777 == 0o600
        assert kept.parent.stat().st_mode & 0o777 == 0o700
        others = [path for path in found_below(command.home, command.output) if path != kept]
    assert others == []


@pytest.mark.first
def test_headers_do_not_follow_a_redirect_to_another_origin(command: Command, clips: Path) -> None:
    with Origin({"film.mp4": clip(clips)}) as elsewhere, Origin({"film.mp4": b""}) as origin:
        target = elsewhere.url("film.mp4") + "?X-Amz-Signature=" + TOKEN
        origin.tell("film.mp4", f"always: redirect {target}")
        ended = command.run(*request(origin), "--until", "download")
    assert ended.code == 0, ended.stderr
    assert {one.headers["x-api-key"] for one in origin.requests} == {HEADER}
    assert len(elsewhere.requests) >= 2
    for one in elsewhere.requests:
        assert {"x-api-key", "authorization"} & one.headers.keys() == set()
    assert told_in(ended) == []
    assert found_below(command.home, command.output) == []


def test_headers_follow_a_redirect_within_their_origin(command: Command, clips: Path) -> None:
    with Origin({"film.mp4": clip(clips), "old.mp4": Resource(b"", story="always: redirect /film.mp4")}) as origin:
        ended = command.run(origin.url("old.mp4"), "--header", f"X-Api-Key: {HEADER}", "--until", "download")
        assert ended.code == 0, ended.stderr
        assert {one.headers.get("x-api-key") for one in origin.requests_for("film.mp4")} == {HEADER}


def test_a_signed_link_that_a_redirect_leads_to_is_not_told_when_it_fails(command: Command, clips: Path) -> None:
    with (
        Origin({"film.mp4": Resource(clip(clips), story="always: 403")}) as elsewhere,
        Origin({"film.mp4": b""}) as origin,
    ):
        origin.tell("film.mp4", f"always: redirect {elsewhere.url('film.mp4')}?X-Amz-Signature={TOKEN}")
        ended = command.run(origin.url("film.mp4"))
    failure_told(ended, code=1, kind="http_refused")
    assert told_in(ended) == []
    assert found_below(command.home, command.output) == []


def request(origin: Origin) -> tuple[str, ...]:
    """The film's link with a token and a password in it, and a secret header."""
    link = origin.url("film.mp4").replace("http://", f"http://me:{PASSWORD}@")
    return f"{link}?token={TOKEN}&take=2", "--header", f"X-Api-Key: {HEADER}"


def told_in(ended: Ended) -> list[str]:
    """The secrets that the command printed."""
    text = "".join((ended.stdout + ended.stderr).split())  # a panel folds long lines
    return [secret for secret in disguised() if secret in text]


def found_below(*folders: Path) -> list[Path]:
    """The files that hold a secret, in any of its forms."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    forms = [secret.encode() for secret in disguised()]
    return [path for path in files if any(form in path.read_bytes() or form in path.name.encode() for form in forms)]


def known_to(api: str, flow_run: str | None) -> list[str]:
    """The secrets that the Prefect server holds: parameters, task runs, logs and artifacts of one run."""
    if flow_run is None:
        return []
    chosen = {"flow_runs": {"id": {"any_": [flow_run]}}}
    asked = {
        "flow_runs": chosen,
        "task_runs": chosen,
        "artifacts": chosen,
        "logs": {"logs": {"flow_run_id": {"any_": [flow_run]}}},
    }
    answers = {kind: list(pages(f"{api}/{kind}/filter", body)) for kind, body in asked.items()}
    assert answers["flow_runs"] and answers["logs"], "the run and its log are there to be looked at"
    text = json.dumps(answers)
    assert "token=REDACTED" in text, "the link is there, without its token"
    return [secret for secret in disguised() if secret in text]


def pages(url: str, body: dict[str, Any]) -> Iterator[Any]:
    """Every row of a filter, page by page."""
    for offset in itertools.count(0, 200):
        answer = httpx.post(url, json={**body, "limit": 200, "offset": offset})
        answer.raise_for_status()
        yield from answer.json()
        if len(answer.json()) < 200:
            return


def flow_run_of(ended: Ended) -> str:
    told: str = ended.document["flow_run_id"]
    return told


def disguised() -> tuple[str, ...]:
    """The secrets as they are and in base64, as basic authentication sends them."""
    return (*SECRETS, base64.b64encode(f"me:{PASSWORD}".encode()).decode())
