"""The address policy through the real command: what a link leads to, in whatever way, is refused by name and not asked.

Both origins are on loopback; the second one stands for a machine of the operator's own network, and sees nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.stored import is_deployed, with_policy
from tests.support.aftermath import left_running
from tests.support.clips import bulk_clip, clip
from tests.support.command import Command, Ended
from tests.support.ladders import cut, hls_text, ladder, name_segments, presentation
from tests.support.origin import Origin, Resource
from tests.support.site import started_site
from tidegate.settings import NetworkSettings, Settings

Files = dict[str, bytes | Path]


@pytest.fixture
def public(command: Command) -> Iterator[Command]:
    command.environment["TIDEGATE_NETWORK_POLICY"] = "public"
    yield command
    assert left_running(command) == []


def allow(command: Command, *origins: Origin) -> None:
    command.environment["TIDEGATE_NETWORK_ALLOW"] = ",".join(f"127.0.0.1:{origin.port}" for origin in origins)


def assert_refused(ended: Ended, inner: Origin, rule: str = "it is loopback") -> None:
    assert ended.code == 1, ended.stdout + ended.stderr
    failure = ended.failure
    assert (failure["type"], failure["retryable"]) == ("address_refused", False), failure
    assert rule in failure["message"]
    assert inner.requests == [] and inner.accepted == 0


@pytest.mark.first
def test_a_loopback_link_is_refused_and_the_line_that_allows_it_is_printed_whole(public: Command, clips: Path) -> None:
    with Origin({"film.mp4": clip(clips)}) as origin:
        ended = public.run(origin.url("film.mp4"), "--until", "probe")
        assert_refused(ended, origin)
        line = f"TIDEGATE_NETWORK_ALLOW=127.0.0.1:{origin.port}"
        assert any(line in action for action in ended.failure["suggested_actions"])
        assert line in " ".join(ended.stderr.split()).replace(" │ │ ", "")
        name, _, value = line.partition("=")
        public.environment[name] = value
        assert public.run(origin.url("film.mp4"), "--until", "probe").code == 0
        public.environment["TIDEGATE_NETWORK_POLICY"] = "allow-list"
        assert public.run(origin.url("film.mp4"), "--until", "download").code == 0


def test_without_a_word_the_command_line_reaches_what_its_user_reaches(command: Command, clips: Path) -> None:
    with Origin({"film.mp4": clip(clips)}) as origin:
        assert command.run(origin.url("film.mp4"), "--until", "probe").code == 0


@pytest.mark.parametrize(
    ("host", "way"),
    [
        ("2130706433", "sockets"),
        pytest.param("127.0.0.1", "sockets", marks=pytest.mark.slow),
        pytest.param("localhost", "sockets", marks=pytest.mark.slow),
        pytest.param("[::1]", "sockets", marks=pytest.mark.slow),
        pytest.param("[::ffff:127.0.0.1]", "sockets", marks=pytest.mark.slow),
        pytest.param("2130706433", "httpx", marks=pytest.mark.slow),
    ],
)
def test_a_redirect_to_a_refused_address_ends_there(host: str, way: str, public: Command, clips: Path) -> None:
    public.environment["TIDEGATE_TRANSFER_TRANSPORT"] = way
    with Origin({"film.mp4": clip(clips)}) as inner:
        away = inner.url("film.mp4").replace("127.0.0.1", host)
        with Origin({"film.mp4": Resource(b"x", story=f"always: redirect {away}")}) as origin:
            allow(public, origin)
            assert_refused(public.run(origin.url("film.mp4"), "--until", "probe"), inner)
            assert len(origin.requests) == 1, "nothing is tried again"


# --- what playlists lead to -------------------------------------------------------------------------


def a_segment(clips: Path, inner: str) -> Files:
    files = name_segments(cut(clips), "s{}.ts")
    return dict(files) | {"list.m3u8": hls_text([*list(files)[:3], f"{inner}/s3.ts"])}


def a_key(clips: Path, inner: str) -> Files:
    files = name_segments(cut(clips), "s{}.ts")
    return dict(files) | {"list.m3u8": hls_text(files, before={0: [f'#EXT-X-KEY:METHOD=AES-128,URI="{inner}/key"']})}


def an_init(clips: Path, inner: str) -> Files:
    files = name_segments(cut(clips, "mp4"), "s{}.m4s")
    return dict(files) | {"list.m3u8": hls_text(files, before={0: [f'#EXT-X-MAP:URI="{inner}/init.mp4"']})}


def a_media_playlist(clips: Path, inner: str) -> Files:
    return {"list.m3u8": ladder({f"{inner}/list.m3u8": "160x120@300000"})}


def sound(clips: Path, inner: str) -> Files:
    files = name_segments(cut(clips, both=False), "s{}.ts")
    group = [f'#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="a",NAME="x",URI="{inner}/a.m3u8"']
    master = ladder({"film.m3u8": "160x120@1"}, media=group, also=',AUDIO="a"')
    return dict(files) | {"film.m3u8": hls_text(files), "list.m3u8": master}


def a_base_url(clips: Path, inner: str) -> Files:
    files = presentation(clips, timeline=True)
    text = files.pop("list.mpd").decode()
    begin = text.index("<Period")
    return dict(files) | {"list.mpd": f"{text[:begin]}<BaseURL>{inner}/</BaseURL>{text[begin:]}".encode()}


LEADING: dict[str, tuple[str, Callable[[Path, str], Files]]] = {
    "a segment": ("list.m3u8", a_segment),
    "a key": ("list.m3u8", a_key),
    "an init section": ("list.m3u8", an_init),
    "a media playlist": ("list.m3u8", a_media_playlist),
    "sound": ("list.m3u8", sound),
    "a BaseURL": ("list.mpd", a_base_url),
}


QUICK = ("a key", "a BaseURL")


@pytest.mark.parametrize(
    "what", [what if what in QUICK else pytest.param(what, marks=pytest.mark.slow) for what in LEADING]
)
def test_what_a_playlist_leads_to_is_judged(what: str, public: Command, clips: Path) -> None:
    name, files = LEADING[what]
    with Origin({}) as inner, Origin(files(clips, inner.url())) as origin:
        allow(public, origin)
        assert_refused(public.run(origin.url(name), "--until", "download", "--allow-gaps"), inner)


@pytest.mark.slow
def test_subtitles_at_a_refused_address_are_left_out_and_told(public: Command, clips: Path) -> None:
    files = name_segments(cut(clips), "s{}.ts")
    with Origin({}) as inner:
        group = [f'#EXT-X-MEDIA:TYPE=SUBTITLES,GROUP-ID="t",NAME="x",LANGUAGE="en",URI="{inner.url("t.m3u8")}"']
        master = ladder({"film.m3u8": "160x120@1"}, media=group, also=',SUBTITLES="t"')
        with Origin(dict(files) | {"film.m3u8": hls_text(files), "list.m3u8": master}) as origin:
            allow(public, origin)
            ended = public.run(origin.url("list.m3u8"), "--until", "download")
        assert ended.code == 0, ended.stderr
        assert "Left out subtitles-1-en: No connection is made to 127.0.0.1" in " ".join(ended.stderr.split())
        assert inner.accepted == 0


# --- mirrors ----------------------------------------------------------------------------------------


def test_a_mirror_at_a_refused_address_is_passed_over_and_told(public: Command, clips: Path) -> None:
    film = bulk_clip(clips, 6 * 1024 * 1024)
    digest = hashlib.sha256(film.read_bytes()).hexdigest()
    with Origin({"copy.mp4": film}) as inner, Origin({"film.mp4": Resource(film, story="2M drop, ok")}) as origin:
        allow(public, origin)
        words = ("--mirror", inner.url("copy.mp4"), "--sha256", digest, "--until", "download")
        ended = public.run(origin.url("film.mp4"), *words)
        assert ended.code == 0, ended.stderr
        assert "is not used: No connection is made to 127.0.0.1" in " ".join(ended.stderr.split())
        assert inner.accepted == 0


@pytest.mark.slow
@pytest.mark.parametrize("told_by", ["Link", "Metalink"])
def test_a_mirror_that_the_origin_names_at_a_refused_address_is_not_asked(
    told_by: str, public: Command, clips: Path
) -> None:
    film = clip(clips)
    with Origin({"copy.mp4": film, "film.meta4": b"<metalink/>"}) as inner:
        copy = f"<{inner.url('copy.mp4')}>; rel=duplicate"
        meta = f'<{inner.url("film.meta4")}>; rel=describedby; type="application/metalink4+xml"'
        header = (copy if told_by == "Link" else meta).replace(" ", "")
        story = f"from-first: header Link={header}, header Link={header} 100 drop, 500"
        with Origin({"film.mp4": Resource(film, story=story)}) as origin:
            allow(public, origin)
            ended = public.run(origin.url("film.mp4"), "--until", "download")
        assert ended.code == 1
        assert ended.failure["type"] == "server_error", "the origin's own failure, as with any bad mirror"
        assert inner.accepted == 0


# --- what an operator sets ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TIDEGATE_NETWORK_POLICY", "closed"),
        ("TIDEGATE_NETWORK_ALLOW", "http://nas.lan/"),
        ("TIDEGATE_NETWORK_ALLOW", "192.168.1.20/24"),
        ("TIDEGATE_NETWORK_ALLOW", "*"),
    ],
)
def test_a_setting_that_makes_no_sense_is_bad_input_before_any_work(name: str, value: str, command: Command) -> None:
    command.environment[name] = value
    ended = command.run("http://127.0.0.1:9/film.mp4")
    assert (ended.code, ended.failure["type"]) == (2, "bad_input")
    assert ended.failure["message"].startswith(f"{name} is not valid")


# --- deployments --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("deployed", "policy"), [(True, "public"), (False, "open")])
def test_where_nobody_says_anything_it_depends_on_who_began_the_run(deployed: bool, policy: str) -> None:
    assert with_policy(Settings(), deployed=deployed).network.policy == policy
    for said in ("open", "public", "allow-list"):
        settings = Settings(network=NetworkSettings(policy=said))
        assert with_policy(settings, deployed=deployed).network.policy == said


def test_a_process_that_was_started_for_a_run_is_deployed_also_in_its_subflows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT__FLOW_RUN_ID", raising=False)
    assert not is_deployed()
    monkeypatch.setenv("PREFECT__FLOW_RUN_ID", "0b3f0c1e-0000-4000-8000-000000000000")
    assert is_deployed()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_runs_of_a_deployment_reach_public_addresses_and_what_the_operator_lists(tmp_path: Path, clips: Path) -> None:
    with (
        Origin({"film.mp4": clip(clips)}) as origin,
        started_site(tmp_path, {"TIDEGATE_NETWORK_ALLOW": ""}) as site,
    ):
        source, folder = {"url": origin.url("film.mp4")}, str(site.output)
        asked: dict[str, Any] = {"output_dir": folder, "until": "probe"}
        alone = site.trigger("ingest", {"source": source, **asked})
        message = site.wait(alone, seconds=240)["message"]
        assert message.startswith("address_refused: No connection is made to 127.0.0.1"), message
        together = site.trigger("batch", {"sources": [source], **asked})
        assert site.wait(together, seconds=240)["type"] == "FAILED"
        [inside] = [run for run in site.runs("ingest") if run["id"] != alone]
        assert inside["state"]["message"].startswith("address_refused: "), "a subflow knows no deployment of its own"
        assert origin.accepted == 0
        listed = {"env": {"TIDEGATE_NETWORK_ALLOW": f"127.0.0.1:{origin.port}"}}
        allowed = site.trigger("ingest", {"source": source, **asked}, listed)
        assert site.wait(allowed, seconds=240)["type"] == "COMPLETED"
