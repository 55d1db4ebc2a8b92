"""What a deployed run may read and where it may publish, through the real flow: a run of a deployment of the test
server. A run by hand goes wherever its user may."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest
from prefect import get_client
from prefect.flow_engine import run_flow_async
from pydantic import SecretStr

from blocks import MediaSource, MediaStore
from flows.ingest import ingest
from flows.request import SourceRequest, require_output, require_writable, source_of
from tests.support.clips import clip
from tests.support.command import Command
from tidegate.durable.home import Home
from tidegate.durable.roots import Roots
from tidegate.errors import BadInput, PathRefused
from tidegate.model import Outcome
from tidegate.transfer.resolvers.local import LocalExchange

SECRET = b"hunter2, which nobody may read\n"

pytestmark = [pytest.mark.ci, pytest.mark.usefixtures("attached")]


class Host:
    """A disk with an allowed folder, a home, and things that are nobody's business."""

    def __init__(self, folder: Path, film: Path) -> None:
        self.folder = folder
        self.allowed, self.home, self.person = folder / "allowed", folder / "home", folder / "person"
        for made in (self.allowed, self.person / ".ssh", self.home / "secrets", folder / "elsewhere"):
            made.mkdir(parents=True)
        self.film = Path(shutil.copy(film, self.allowed / "film.mp4"))
        self.outside = Path(shutil.copy(film, folder / "elsewhere" / "private.mp4"))
        self.key = self.person / ".ssh" / "id_rsa"
        for secret in (self.key, self.home / "server.password", self.home / "secrets" / "0123456789abcdef.json"):
            secret.write_bytes(SECRET)
        (self.allowed / "link.mp4").symlink_to(self.outside)
        self.out = self.allowed / "out"

    def names(self) -> set[str]:
        """Every path on this disk, but for those below a home's own folders."""
        return {str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if self.home not in path.parents}


@pytest.fixture
def host(tmp_path: Path, clips: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    host = Host(tmp_path / "host", clip(clips))
    monkeypatch.setenv("HOME", str(host.person))
    monkeypatch.setenv("TIDEGATE_HOME", str(host.home))
    monkeypatch.setenv("TIDEGATE_ROOTS", str(host.allowed))
    return host


def deployed(source: str | dict[str, Any], output_dir: Path | str, **more: Any) -> Outcome:
    """What a run of a deployment comes to."""

    async def run() -> Outcome:
        told = source if isinstance(source, dict) else {"url": source}
        parameters: dict[str, Any] = {"source": told, "output_dir": str(output_dir), **more}
        async with get_client() as client:
            deployment = await client.create_deployment(await client.create_flow(ingest), "roots")
            flow_run = await client.create_flow_run_from_deployment(deployment, parameters=parameters)
        typed = {**parameters, "source": SourceRequest(**told), "output_dir": Path(output_dir)}
        state: Any = await run_flow_async(ingest, flow_run=flow_run, parameters=typed, return_type="state")
        outcome = await state.aresult(raise_on_failure=False)
        assert isinstance(outcome, Outcome), outcome
        return outcome

    return asyncio.run(run())


def type_of(outcome: Outcome) -> str:
    return outcome.failure.type if outcome.failure else outcome.status


def test_a_deployed_run_reads_nothing_outside_its_roots_however_it_is_named(host: Host) -> None:
    before = host.names()
    for url in (
        "/proc/self/environ",
        "file://localhost/%65tc/passwd",
        f"{host.allowed}/../person/.ssh/id_rsa",
        f"{host.allowed}/link.mp4",
        f"{host.folder}/no-such-file.mp4",
        f"{host.home}/server.password",
    ):
        outcome = deployed(url, host.out)
        assert type_of(outcome) == "path_refused", url
        assert outcome.failure is not None and "hunter2" not in outcome.model_dump_json()
        own = str(host.home) in url
        assert ("TIDEGATE_ROOTS=" in outcome.failure.message) is not own, outcome.failure.message
    assert host.names() == before, "nothing was made"


def test_every_form_of_a_path_is_judged_before_anybody_looks_for_the_file(host: Host) -> None:
    """What the flow asks, for more forms than flows."""
    roots = Roots((host.allowed, host.home), (host.home,))
    for url in (
        "/etc/passwd",
        "//etc/passwd",
        "///etc/passwd",
        "/etc//./passwd",
        "file:///etc/passwd",
        "file:////etc/passwd",
        "file:/etc/passwd",
        "FILE:///etc/passwd",
        "file:///%65tc/%70asswd",
        "file:///etc/passwd?x#y",
        "~/.ssh/id_rsa",
        str(host.key),
        f"file://{host.allowed}/%2e%2e/person/.ssh/id_rsa",
        f"file://{host.allowed}/..%2Fperson%2F.ssh%2Fid_rsa",
        f"//{host.home}/server.password",
        f"{host.home}/secrets/0123456789abcdef.json",
        f"{host.home}/secrets/no-such-file.json",
        f"{host.home}/ledger.db",
    ):
        with pytest.raises(PathRefused):
            source_of(SourceRequest(url=url), Home(host.home), roots.require_readable)
    with pytest.raises(BadInput, match="http"):
        source_of(
            SourceRequest(url=str(host.film), mirrors=[host.key.as_uri()]), Home(host.home), roots.require_readable
        )


def test_a_deployed_run_publishes_nowhere_else(host: Host) -> None:
    (host.allowed / "away").symlink_to(host.person / ".ssh")
    before = host.names()
    for output in (
        "/etc/cron.d",
        host.person / ".config" / "autostart",
        host.allowed / "away",
        host.home / "secrets",
        host.home / "server.json",
    ):
        outcome = deployed(str(host.film), output)
        assert type_of(outcome) == "path_refused", output
        assert outcome.failure is not None and "publish into" in outcome.failure.message
    roots = Roots((host.allowed, host.home), (host.home,))
    for more in (
        host.person / ".ssh",
        host.person,
        host.allowed / ".hidden",
        host.allowed / ".." / "elsewhere",
        host.home / ".." / "elsewhere",
        host.home,
        host.home / "ledger.db-journal",
        host.home / "assets" / "aa",
    ):
        with pytest.raises(PathRefused):
            require_output(more, Home(host.home), roots.require_writable)
    assert host.names() == before
    assert sorted(path.name for path in (host.home / "secrets").iterdir()) == ["0123456789abcdef.json"]


def test_an_output_folder_that_no_disk_can_have_is_bad_input(host: Host) -> None:
    for output, why in {"o" * 300: "300 bytes", "/o" * 2000: "4000 bytes", "o\0": "NUL"}.items():
        with pytest.raises(BadInput, match=why):
            require_writable(Path(output))
    assert type_of(deployed(str(host.film), "ö" * 200)) == "bad_input"


def test_what_is_allowed_works_and_a_line_makes_work_what_was_refused(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert type_of(deployed(str(host.film), host.out)) == "completed"
    refused = deployed(str(host.outside), host.out).failure
    assert refused is not None
    name, _, value = refused.message.partition("To allow it: ")[2].partition("=")
    assert value == f"{host.allowed}:{host.outside.parent}"
    monkeypatch.setenv(name, value)
    assert type_of(deployed(str(host.outside), host.out, until="probe")) == "completed"


def test_where_make_serve_was_started_counts_unless_that_is_the_root_of_everything(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIDEGATE_SERVED_FROM", str(host.outside.parent))
    assert type_of(deployed(str(host.outside), host.out, until="probe")) == "completed"
    monkeypatch.setenv("TIDEGATE_ROOTS_ONLY", "true")
    assert type_of(deployed(str(host.outside), host.out, until="probe")) == "path_refused"
    monkeypatch.delenv("TIDEGATE_ROOTS_ONLY")
    shutil.rmtree(host.home)  # nobody has used it
    monkeypatch.setenv("TIDEGATE_SERVED_FROM", "/")
    assert type_of(deployed(str(host.outside), host.out, until="probe")) == "path_refused"


def test_folders_that_runs_have_used_go_on_working_and_a_refused_run_adds_none(
    host: Host, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after an upgrade: what a run by hand did is in the ledger, and no setting is there."""
    monkeypatch.delenv("TIDEGATE_ROOTS")
    by_hand = Command(command.home, host.folder / "used", {**command.environment, "TIDEGATE_HOME": str(host.home)})
    assert type_of(deployed(str(host.outside), "media")) == "path_refused"
    assert type_of(deployed(str(host.outside), "media")) == "path_refused", "having been asked for is no use"
    assert by_hand.run(str(host.outside)).code == 0
    assert type_of(deployed(str(host.outside), host.folder / "used")) == "completed"
    assert type_of(deployed(str(host.outside), host.outside.parent)) == "path_refused", "read, and never written"
    assert type_of(deployed(str(host.film), host.folder / "used")) == "path_refused"


def test_blocks_name_nothing_that_a_run_may_not_use(host: Host) -> None:
    async def save() -> None:
        await MediaSource(url=SecretStr(host.key.as_uri())).save("key", overwrite=True)  # type: ignore[misc]
        await MediaStore(home=host.person / ".ssh").save("ssh", overwrite=True)  # type: ignore[misc]
        await MediaStore(home=host.allowed / "store").save("allowed", overwrite=True)  # type: ignore[misc]

    asyncio.run(save())
    assert type_of(deployed({"block": "key"}, host.out)) == "path_refused"
    assert type_of(deployed(str(host.film), host.out, store_block="ssh")) == "path_refused"
    assert [path.name for path in (host.person / ".ssh").iterdir()] == ["id_rsa"]
    assert type_of(deployed(str(host.film), host.out, store_block="allowed", until="probe")) == "completed"
    for own in (host.home, host.allowed / "store"):
        assert type_of(deployed(f"{own}/ledger.db", host.out, store_block="allowed")) == "path_refused"


def test_a_playlist_on_disk_leads_to_no_other_file(host: Host) -> None:
    for name, text in {
        "list.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile://{host.outside}\n#EXT-X-ENDLIST\n",
        "list.mp4": f"ffconcat version 1.0\nfile '{host.outside}'\n",
        "list.mpd": f"<MPD><Period><AdaptationSet><BaseURL>file://{host.outside}</BaseURL></AdaptationSet></Period></MPD>",
        "list.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\n",
    }.items():
        (host.allowed / name).write_text(text)
        outcome = deployed(str(host.allowed / name), host.out)
        assert type_of(outcome) in ("not_media", "unsupported_source"), name


def test_a_file_that_is_swapped_for_a_link_while_it_is_opened_is_refused(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at its name and the opening of it, and back again: whoever looks at the name sees the film."""
    open_path, aside = LocalExchange._open_path, host.allowed / "aside.mp4"

    def swapped(exchange: LocalExchange) -> int:
        host.film.rename(aside)
        host.film.symlink_to(host.key)
        try:
            return open_path(exchange)
        finally:
            aside.replace(host.film)

    monkeypatch.setattr(LocalExchange, "_open_path", swapped)
    outcome = deployed(str(host.film), host.out)
    assert type_of(outcome) == "path_refused" and "hunter2" not in outcome.model_dump_json()


def test_an_output_folder_that_is_swapped_for_a_link_gets_nothing(host: Host) -> None:
    """The run is held before it publishes; by then its folder is a link to where nobody may write."""
    host.out.mkdir()
    film = host.film

    async def run() -> Any:
        told = {"source": {"url": str(film)}, "output_dir": str(host.out)}
        async with get_client() as client:
            deployment = await client.create_deployment(await client.create_flow(ingest), "roots")
            flow_run = await client.create_flow_run_from_deployment(deployment, parameters=told)
        typed = {"source": SourceRequest(url=str(film)), "output_dir": host.out}
        work = asyncio.ensure_future(
            run_flow_async(ingest, flow_run=flow_run, parameters=typed, return_type="state")  # type: ignore[call-overload]
        )
        while not list((host.home / "scratch").glob("*/*")):  # noqa: ASYNC110  # it is the run's to make, by itself
            await asyncio.sleep(0.005)
        host.out.rmdir()
        host.out.symlink_to(host.person / ".ssh")
        return await (await work).aresult(raise_on_failure=False)

    outcome = asyncio.run(run())
    assert type_of(outcome) == "path_refused"
    assert [path.name for path in (host.person / ".ssh").iterdir()] == ["id_rsa"], "not even the report of the failure"


def test_a_run_by_hand_goes_wherever_its_user_may(host: Host, command: Command) -> None:
    command.environment |= {"TIDEGATE_ROOTS": str(host.allowed), "TIDEGATE_ROOTS_ONLY": "true"}
    assert command.run(str(host.outside), "--until", "probe").code == 0
