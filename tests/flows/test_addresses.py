"""The address policy through the real command: what a link leads to, in whatever way, is refused by name and not asked.

Both origins are on loopback; the second one stands for a machine of the operator's own network, and sees nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.aftermath import left_running
from tests.support.clips import clip
from tests.support.command import Command, Ended
from tests.support.ladders import cut, ladder, listed, named, presentation
from tests.support.origin import Origin, Resource

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


@pytest.mark.parametrize("way", ["sockets", "httpx"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]"])
def test_a_redirect_to_a_refused_address_ends_there(host: str, way: str, public: Command, clips: Path) -> None:
    if way == "httpx" and host != "2130706433":
        pytest.skip("one spelling shows that this transport judges; tests/transfer/test_dial.py has the others")
    public.environment["TIDEGATE_TRANSFER_TRANSPORT"] = way
    with Origin({"film.mp4": clip(clips)}) as inner:
        away = inner.url("film.mp4").replace("127.0.0.1", host)
        with Origin({"film.mp4": Resource(b"x", story=f"always: redirect {away}")}) as origin:
            allow(public, origin)
            assert_refused(public.run(origin.url("film.mp4"), "--until", "probe"), inner)
            assert len(origin.requests) == 1, "nothing is tried again"


# --- what playlists lead to -------------------------------------------------------------------------


def a_segment(clips: Path, inner: str) -> Files:
    files = named(cut(clips), "s{}.ts")
    return dict(files) | {"list.m3u8": listed([*list(files)[:3], f"{inner}/s3.ts"])}


def a_key(clips: Path, inner: str) -> Files:
    files = named(cut(clips), "s{}.ts")
    return dict(files) | {"list.m3u8": listed(files, before={0: [f'#EXT-X-KEY:METHOD=AES-128,URI="{inner}/key"']})}


def an_init(clips: Path, inner: str) -> Files:
    files = named(cut(clips, "mp4"), "s{}.m4s")
    return dict(files) | {"list.m3u8": listed(files, before={0: [f'#EXT-X-MAP:URI="{inner}/init.mp4"']})}


def a_media_playlist(clips: Path, inner: str) -> Files:
    return {"list.m3u8": ladder({f"{inner}/list.m3u8": "160x120@300000"})}


def sound(clips: Path, inner: str) -> Files:
    files = named(cut(clips, both=False), "s{}.ts")
    group = [f'#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="a",NAME="x",URI="{inner}/a.m3u8"']
    master = ladder({"film.m3u8": "160x120@1"}, media=group, also=',AUDIO="a"')
    return dict(files) | {"film.m3u8": listed(files), "list.m3u8": master}


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


@pytest.mark.parametrize("what", LEADING)
def test_what_a_playlist_leads_to_is_judged(what: str, public: Command, clips: Path) -> None:
    name, files = LEADING[what]
    with Origin({}) as inner, Origin(files(clips, inner.url())) as origin:
        allow(public, origin)
        assert_refused(public.run(origin.url(name), "--until", "download", "--allow-gaps"), inner)


@pytest.mark.parametrize(
    "link",
    [
        "file:///etc/passwd",
        "concat:a|b",
        "subfile,,start,0,end,9,,:/etc/passwd",
        "data:,x",
        "ftp://x/a",
        "gopher://x/a",
    ],
)
@pytest.mark.parametrize("place", ["segment", "redirect", "BaseURL"])
def test_nothing_but_the_web_is_followed(link: str, place: str, public: Command, clips: Path) -> None:
    stories = {"film.mp4": f"always: redirect {link}"} if place == "redirect" and "," not in link else {}
    if place == "redirect" and not stories:
        pytest.skip("a story's redirect cannot hold a comma; the rule is one for all schemes")
    if link != "file:///etc/passwd" and place != "segment":
        pytest.skip("one scheme shows each place; all of them are tried as segments")
    files: Files = {"film.mp4": b"x", "list.m3u8": listed(["s0.ts", link]), **dict(named(cut(clips), "s{}.ts"))}
    files |= a_base_url(clips, link)
    with Origin(files, stories=stories) as origin:
        allow(public, origin)
        name = {"segment": "list.m3u8", "redirect": "film.mp4", "BaseURL": "list.mpd"}[place]
        ended = public.run(origin.url(name), "--until", "download", "--allow-gaps")
    assert ended.code == 1
    assert ended.failure["type"] in ("unsupported_source", "redirect_loop", "not_found", "segment_gap"), ended.failure
    assert "root:" not in ended.stdout


def test_subtitles_at_a_refused_address_are_left_out_and_told(public: Command, clips: Path) -> None:
    files = named(cut(clips), "s{}.ts")
    with Origin({}) as inner:
        group = [f'#EXT-X-MEDIA:TYPE=SUBTITLES,GROUP-ID="t",NAME="x",LANGUAGE="en",URI="{inner.url("t.m3u8")}"']
        master = ladder({"film.m3u8": "160x120@1"}, media=group, also=',SUBTITLES="t"')
        with Origin(dict(files) | {"film.m3u8": listed(files), "list.m3u8": master}) as origin:
            allow(public, origin)
            ended = public.run(origin.url("list.m3u8"), "--until", "download")
        assert ended.code == 0, ended.stderr
        assert "Left out subtitles-1-en: No connection is made to 127.0.0.1" in " ".join(ended.stderr.split())
        assert inner.accepted == 0


# --- mirrors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("story", ["2M drop, 500", "ok"])
def test_a_mirror_at_a_refused_address_is_passed_over_and_told(story: str, public: Command, clips: Path) -> None:
    film = clip(clips)
    digest = hashlib.sha256(film.read_bytes()).hexdigest()
    with Origin({"copy.mp4": film}) as inner, Origin({"film.mp4": Resource(film, story=story)}) as origin:
        allow(public, origin)
        words = ("--mirror", inner.url("copy.mp4"), "--sha256", digest, "--until", "download")
        ended = public.run(origin.url("film.mp4"), *words)
        assert ended.code == 0, ended.stderr
        assert inner.accepted == 0


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
