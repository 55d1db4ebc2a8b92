"""A named server is asked as Prefect's client would ask it, and a server that cannot be used is told with its cure:
by the real command and by doctor, against real servers behind TLS, logins and passwords."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from flows import access, health, server, site
from flows.configuration import ClientSettings
from flows.port import listener_on
from flows.server import found
from tests.support import prefect_database
from tests.support.clips import clip
from tests.support.command import Command, wait_until
from tests.support.front import Authority, found_authority, standing_before
from tests.support.prefects_answers import answering
from tidegate.errors import ServerUnavailable

OURS = health.version("prefect")
LOGIN = "Authorization: Basic c3RhZmY6c2VjcmV0"
HEADERS = {"PREFECT_CLIENT_CUSTOM_HEADERS": json.dumps({"Authorization": "Basic c3RhZmY6c2VjcmV0"})}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return found_authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def secure(authority: Authority, prefect_server: str) -> Iterator[str]:
    with standing_before(prefect_server, context=authority.context()) as api:
        yield api


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The address of a server of another home, and its password."""
    folder = tmp_path_factory.mktemp("locked")
    prefect_database.laid_into(folder / "prefect")
    before = dict(os.environ)
    with listener_on(0) as listener:
        os.environ.update({"PREFECT_HOME": str(folder / "prefect"), "HOME": str(folder)})
        try:
            login = access.login_of(folder / "home")
            process = server.launch(listener, folder / "server.log", folder / "home", {})
        finally:
            os.environ.clear()
            os.environ.update(before)
        api = server.address_of(listener)
    try:
        wait_until(lambda: server.is_up(api), seconds=200, what="for the server")
        yield api, login
    finally:
        process.kill()
        process.wait()


def probed(command: Command, clips: Path, api: str, **told: str) -> tuple[int, dict[str, Any]]:
    command.environment |= {"PREFECT_API_URL": api, **told}
    ended = command.run(str(clip(clips)), "--until", "probe")
    assert "Traceback" not in ended.stderr, ended.stderr
    return ended.code, ended.document.get("failure") or {}


def examined(command: Command, api: str, **told: str) -> dict[str, str]:
    """What doctor says of the server, by level."""
    done = subprocess.run(
        [sys.executable, "-m", "flows.doctor", "--json"],
        env=command.env() | {"PREFECT_API_URL": api, **told}, cwd=command.home, capture_output=True, text=True,
    )  # fmt: skip
    return {
        one["level"]: f"{one['message']} → {one['do']}"
        for one in json.loads(done.stdout)["findings"]
        if one["subject"] == "server"
    }


def test_a_server_behind_a_private_authority_works_with_its_certificate(
    secure: str, authority: Authority, command: Command, clips: Path
) -> None:
    told = {"PREFECT_API_SSL_CERT_FILE": str(authority.ca_file)}
    assert "answers" in examined(command, secure, **told)["green"]
    assert probed(command, clips, secure, **told) == (0, {})


def test_and_without_verifying_it(secure: str, command: Command, clips: Path) -> None:
    assert probed(command, clips, secure, PREFECT_API_TLS_INSECURE_SKIP_VERIFY="true") == (0, {})


def test_and_without_either_says_which_setting_is_missing(secure: str, command: Command, clips: Path) -> None:
    code, failure = probed(command, clips, secure)
    assert (code, failure["type"]) == (1, "server_unavailable")
    assert "certificate that is not trusted" in failure["message"]
    assert "PREFECT_API_SSL_CERT_FILE" in failure["suggested_actions"][0]
    assert "PREFECT_API_SSL_CERT_FILE" in examined(command, secure)["red"]


def test_a_login_in_front_is_passed_with_custom_headers(prefect_server: str, command: Command, clips: Path) -> None:
    with standing_before(prefect_server, wants=LOGIN) as api:
        code, failure = probed(command, clips, api)
        assert (code, failure["type"]) == (1, "server_unavailable")
        assert "login" in failure["message"] and "PREFECT_CLIENT_CUSTOM_HEADERS" in failure["suggested_actions"][0]
        assert "green" in examined(command, api, **HEADERS)
        assert "red" not in examined(command, api, **HEADERS), "it does not stand open: the login is before it"
        assert probed(command, clips, api, **HEADERS) == (0, {})


@pytest.mark.slow
def test_a_server_with_a_password_says_which_setting_is_missing_and_works_with_it(
    locked: tuple[str, str], command: Command, clips: Path
) -> None:
    api, login = locked
    code, failure = probed(command, clips, api)
    assert (code, failure["type"]) == (1, "server_unavailable") and "wants a password" in failure["message"]
    assert all(name in failure["suggested_actions"][0] for name in ("PREFECT_API_AUTH_STRING", "PREFECT_API_KEY"))
    code, failure = probed(command, clips, api, PREFECT_API_AUTH_STRING="tidegate:wrong")
    assert "refuses the password in PREFECT_API_AUTH_STRING" in failure["message"]
    assert "wrong" not in json.dumps(failure)
    assert "refuses the password" in examined(command, api, PREFECT_API_AUTH_STRING="tidegate:wrong")["red"]
    assert "red" not in examined(command, api, PREFECT_API_AUTH_STRING=login)
    assert probed(command, clips, api, PREFECT_API_AUTH_STRING=login) == (0, {})


def test_an_api_key_is_told_to_be_refused_as_a_key(locked: tuple[str, str], command: Command, clips: Path) -> None:
    _, failure = probed(command, clips, locked[0], PREFECT_API_KEY="pnu_wrong")
    assert "refuses the key in PREFECT_API_KEY" in failure["message"] and "pnu_wrong" not in json.dumps(failure)


def test_a_server_that_stands_open_is_a_red_line_of_doctors(prefect_server: str, command: Command) -> None:
    told = examined(command, prefect_server)
    assert "answers" in told["green"]
    assert "stands open" in told["red"] and "PREFECT_SERVER_API_AUTH_STRING" in told["red"]


PLACES = {
    "environment": ("", "", "PREFECT_API_URL"),
    "dotenv": (".env", "PREFECT_API_URL={}\n", ".env"),
    "prefect.toml": ("prefect.toml", '[api]\nurl = "{}"\n', "prefect.toml"),
    "pyproject": ("pyproject.toml", '[tool.prefect.api]\nurl = "{}"\n', "pyproject.toml"),
    "profile": (
        "prefect/profiles.toml",
        'active = "here"\n[profiles.here]\nPREFECT_API_URL = "{}"\n',
        "the profile here",
    ),
}


def name_server(where: str, api: str, folder: Path, environment: dict[str, str]) -> str:
    """Gives how one calls the place."""
    file, content, called = PLACES[where]
    if file:
        environment.pop("PREFECT_API_URL", None)
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_text(content.format(api))
    else:
        environment["PREFECT_API_URL"] = api
    return called


@pytest.mark.parametrize("where", PLACES)
def test_a_dead_server_is_told_with_where_it_is_named(where: str, command: Command, clips: Path) -> None:
    called = name_server(where, "http://127.0.0.1:9/api", command.home, command.environment)
    ended = command.run(str(clip(clips)))
    assert (ended.code, ended.failure["type"]) == (1, "server_unavailable")
    assert "http://127.0.0.1:9/api" in ended.failure["message"] and called in ended.failure["message"]
    assert "Connection refused" in ended.failure["message"] and "start it" in ended.failure["suggested_actions"][0]
    done = subprocess.run(
        [sys.executable, "-m", "flows.doctor", "--json"],
        env=command.env(), cwd=command.home, capture_output=True, text=True,
    )  # fmt: skip
    [red] = [one for one in json.loads(done.stdout)["findings"] if one["subject"] == "server"]
    assert red["level"] == "red" and called in red["message"] and "start it" in red["do"]


@pytest.mark.parametrize("where", PLACES)
def test_a_living_server_is_found_wherever_it_is_named(
    where: str, nobody: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment: dict[str, str] = {}
    with answering() as port:
        api = f"http://127.0.0.1:{port}/api"
        called = name_server(where, api, nobody, environment)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        there = found(nobody)
        assert there is not None and there.api_url == api and called in there.where
        assert there.ui_url == f"http://127.0.0.1:{port}"


def test_a_run_uses_the_server_that_prefect_toml_names(prefect_server: str, command: Command, clips: Path) -> None:
    name_server("prefect.toml", prefect_server, command.home, command.environment)
    ended = command.run(str(clip(clips)), "--until", "probe")
    assert ended.code == 0, ended.stderr
    assert ended.document["ui_url"].startswith(prefect_server.removesuffix("/api"))
    assert not (command.home / "tidegate" / "servers").exists()


def test_an_empty_variable_takes_away_what_the_files_name(nobody: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name_server("prefect.toml", "http://127.0.0.1:9/api", nobody, {})
    monkeypatch.setenv("PREFECT_API_URL", "")
    assert found(nobody) is None


class Answers(BaseHTTPRequestHandler):
    """Says what it is told for each path, else what it says for any."""

    replies: Mapping[str, tuple[int, Mapping[str, str], bytes]]
    heads: list[Mapping[str, str]]

    def do_GET(self) -> None:
        self.heads.append(dict(self.headers))
        status, headers, body = self.replies.get(self.path) or self.replies["*"]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def saying(**replies: tuple[int, Mapping[str, str], bytes]) -> Iterator[tuple[str, list[Mapping[str, str]]]]:
    by_path = {("*" if name == "any" else f"/api/{name.replace('__', '/')}"): reply for name, reply in replies.items()}
    heads: list[Mapping[str, str]] = []
    handler = type("Said", (Answers,), {"replies": by_path, "heads": heads})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as program:
        threading.Thread(target=program.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{program.server_port}/api", heads
        program.shutdown()


PAGE = (200, {"Content-Type": "text/html"}, b"<!DOCTYPE html><title>Log in</title>")


@pytest.mark.parametrize(
    ("reply", "trouble", "cure"),
    [
        (PAGE, "with a web page", "PREFECT_CLIENT_CUSTOM_HEADERS"),
        ((302, {"Location": "https://login.example/in?next=x"}, b""), "leads to https://login.example/in", "CUSTOM"),
        ((301, {"Location": "https://new.example/api/admin/version"}, b""), "has moved", "https://new.example/api"),
        ((401, {}, b'{"exception_message": "Unauthorized"}'), "wants a password (HTTP 401)", "PREFECT_API_AUTH_STRING"),
        ((403, {}, b'{"detail": "no"}'), "wants a password (HTTP 403)", "PREFECT_API_KEY"),
        ((401, {"Content-Type": "text/html"}, b"<html>"), "behind a login", "PREFECT_CLIENT_CUSTOM_HEADERS"),
        ((407, {}, b""), "the proxy wants a password", "HTTPS_PROXY"),
        ((404, {}, b'{"detail":"Not Found"}'), "with HTTP 404", "ends in /api"),
        ((200, {}, b'"2.20.4"'), "runs Prefect 2.20.4", "one major version"),
        ((200, {}, b'{"ok": true}'), "does not answer as Prefect's API", "ends in /api"),
        ((200, {}, b"x" * 1_000_000), "does not answer as Prefect's API", "ends in /api"),
        ((500, {}, b""), "answers HTTP 500", "log"),
    ],
)  # fmt: skip
def test_what_is_no_usable_server_is_told_in_a_true_sentence(
    reply: tuple[int, Mapping[str, str], bytes], trouble: str, cure: str, nobody: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with saying(any=reply) as (api, _):
        monkeypatch.setenv("PREFECT_API_URL", api)
        with pytest.raises(ServerUnavailable) as told:
            found(nobody)
    assert trouble in told.value.message and api in told.value.message
    assert cure in told.value.hint


def test_an_address_without_api_is_told_what_it_should_be() -> None:
    with saying(any=PAGE, admin__version=(200, {}, f'"{OURS}"'.encode())) as (api, _):
        seen = health.look_at(api.removesuffix("/api"))
    assert "a web page" in seen.trouble and seen.cure == f"set PREFECT_API_URL to {api}"


def test_a_server_that_does_not_tell_its_version_is_well() -> None:
    """So it is with Prefect Cloud."""
    with saying(any=(404, {}, b"{}"), health=(200, {}, b"true")) as (api, _):
        assert health.look_at(api).well


@pytest.mark.parametrize(
    ("settings", "sent"),
    [
        (ClientSettings(), None),
        (ClientSettings(auth_string="a:b", key="k"), "Basic YTpi"),
        (ClientSettings(key="k"), "Bearer k"),
        (ClientSettings(auth_string="a:b", headers={"Authorization": "Bearer t", "X-Team": "x"}), "Bearer t"),
    ],
)
def test_it_sends_what_prefects_client_would_send(settings: ClientSettings, sent: str | None) -> None:
    with saying(any=(200, {}, f'"{OURS}"'.encode())) as (api, heads):
        assert health.look_at(api, settings).well
    assert heads[0].get("authorization") == sent
    assert heads[0].get("x-team") == settings.headers.get("X-Team")


@pytest.mark.parametrize(
    ("api", "trouble", "cure"),
    [
        ("localhost:4200/api", "is no address", "http://"),
        ("http://[::1/api", "is no address", "http://"),
        ("http://127.0.0.1:9/api", "Connection refused", "start it"),
    ],
)
def test_an_address_that_leads_nowhere_is_told(api: str, trouble: str, cure: str) -> None:
    seen = health.look_at(api)
    assert trouble in seen.trouble and cure in seen.cure


def test_a_proxy_that_is_dead_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://user:secret@127.0.0.1:9")
    seen = health.look_at("http://prefect.invalid/api")
    assert "through the proxy http://127.0.0.1:9" in seen.trouble and "NO_PROXY" in seen.cure
    assert "secret" not in seen.trouble


def test_tls_where_there_is_none_and_none_where_there_is(prefect_server: str, secure: str) -> None:
    assert "http:// instead" in health.look_at(prefect_server.replace("http:", "https:")).cure
    assert "https://" in health.look_at(secure.replace("https:", "http:")).cure


@pytest.mark.parametrize("content", [None, "", "no certificate"])
def test_a_file_of_certificates_that_is_none_is_told(content: str | None, secure: str, tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)
    seen = health.look_at(secure, ClientSettings(ca_file=str(file)))
    assert str(file) in seen.trouble and "PREFECT_API_SSL_CERT_FILE" in seen.cure


def test_a_certificate_of_another_name_is_told(prefect_server: str, tmp_path: Path) -> None:
    other = found_authority(tmp_path, "prefect.example")
    with standing_before(prefect_server, context=other.context()) as api:
        seen = health.look_at(api, ClientSettings(ca_file=str(other.ca_file)))
        assert "not trusted" in seen.trouble and "127.0.0.1" in seen.trouble
        assert health.look_at(api, ClientSettings(skip_verify=True)).well


def test_a_server_that_restarts_behind_its_proxy_is_waited_for(nobody: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with saying(any=(503, {}, b"restarting")) as (api, heads):
        monkeypatch.setenv("PREFECT_API_URL", api)
        monkeypatch.setattr(server, "PATIENCE_SECONDS", 1.2)
        with pytest.raises(ServerUnavailable, match="answers HTTP 503"):
            found(nobody)
    assert len(heads) >= 3


def test_our_password_goes_to_no_server_that_we_did_not_start(nobody: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither to the one at the usual address, nor to one that `make serve` found."""
    with saying(any=(200, {}, f'"{OURS}"'.encode())) as (api, heads):
        monkeypatch.setattr(server, "DEFAULT_API", api)
        monkeypatch.setenv("PREFECT_API_KEY", "k")
        assert found(nobody) == server.Server(api)
        site.record(nobody, api, ours=False)
        there = found(nobody)
        assert there is not None and not there.ours
        assert [head["authorization"] for head in heads if "authorization" in head] == ["Bearer k"], "said by a person"
        monkeypatch.setenv("PREFECT_API_URL", api)
        found(nobody)
        assert not [head for head in heads if "Basic" in head.get("authorization", "")]
        site.record(nobody, api, ours=True)
        mine = found(nobody)
        assert mine is not None and mine.ours
        assert heads[-1]["authorization"] == access.basic(access.home_login(nobody))


def test_a_login_meant_for_another_server_does_not_take_the_place_of_our_password(
    nobody: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_CLIENT_CUSTOM_HEADERS", '{"Authorization": "Basic eA==", "X-Team": "x"}')
    told = server._for_ours(ClientSettings(auth_string="tidegate:p"))
    assert told["PREFECT_API_AUTH_STRING"] == "tidegate:p"
    assert json.loads(told["PREFECT_CLIENT_CUSTOM_HEADERS"]) == {"X-Team": "x"}


def test_the_ui_of_prefect_cloud_is_elsewhere() -> None:
    api = "https://api.prefect.cloud/api/accounts/a/workspaces/w"
    assert server.Server(api).ui_url == "https://app.prefect.cloud/account/a/workspace/w"
