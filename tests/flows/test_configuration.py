"""What is read without Prefect is what Prefect itself reads, wherever a person has said it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from flows.configuration import ClientSettings, client_settings, look_up, prefect_home

TOLD = {
    "PREFECT_API_URL": "http://127.0.0.1:9/api",
    "PREFECT_API_AUTH_STRING": "user:pass#word",
    "PREFECT_API_KEY": "pnu_1",
    "PREFECT_API_SSL_CERT_FILE": "/etc/ca.pem",
    "PREFECT_API_TLS_INSECURE_SKIP_VERIFY": "true",
    "PREFECT_CLIENT_CUSTOM_HEADERS": '{"X-Team": "media", "Authorization": "Bearer t"}',
}
TABLES = """
[{0}api]
url = "http://127.0.0.1:9/api"
auth_string = "user:pass#word"
key = "pnu_1"
ssl_cert_file = "/etc/ca.pem"
tls_insecure_skip_verify = true
[{0}client]
custom_headers = {{ "X-Team" = "media", Authorization = "Bearer t" }}
"""


def lines() -> str:
    return "".join(f"export {name}='{value}'\n" for name, value in TOLD.items())


def profile(active: str = "here") -> str:
    values = "".join(f"{name} = {json.dumps(value)}\n" for name, value in TOLD.items())
    return f'active = "{active}"\n[profiles.here]\n{values}'


FILES = {
    ".env": lines(),
    "prefect.toml": TABLES.format(""),
    "pyproject.toml": TABLES.format("tool.prefect."),
    "prefect/profiles.toml": profile(),
}


@pytest.fixture
def untold(nobody: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in list(os.environ):
        if name.startswith("PREFECT_") and name != "PREFECT_HOME":
            monkeypatch.delenv(name)
    from prefect.settings import Settings

    where = Settings().api.ssl_cert_file  # read from SSL_CERT_FILE when Prefect was imported, and never again
    monkeypatch.setenv("SSL_CERT_FILE", where or "")
    if not where:
        monkeypatch.delenv("SSL_CERT_FILE")
    (nobody / "prefect").mkdir(exist_ok=True)
    return nobody


def as_prefect_reads() -> tuple[str | None, ClientSettings]:
    from prefect.settings import Settings

    told = Settings()
    login, key = told.api.auth_string, told.api.key
    return told.api.url, ClientSettings(
        auth_string=login.get_secret_value() if login else None,
        key=key.get_secret_value() if key else None,
        headers=told.client.custom_headers,
        ca_file=told.api.ssl_cert_file,
        skip_verify=told.api.tls_insecure_skip_verify,
    )


def as_we_read() -> tuple[str | None, ClientSettings]:
    url = look_up("api.url")
    return (url.value if url else None), client_settings()


@pytest.mark.parametrize("file", FILES)
def test_it_reads_a_file_as_prefect_does(file: str, untold: Path) -> None:
    (untold / file).write_text(FILES[file])
    url, settings = as_we_read()
    assert (url, settings) == as_prefect_reads()
    assert settings.auth_string == "user:pass#word" and settings.headers["X-Team"] == "media" and settings.skip_verify


def test_it_reads_the_environment_as_prefect_does(untold: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in TOLD.items():
        monkeypatch.setenv(name, value)
    assert as_we_read() == as_prefect_reads()
    assert client_settings().key == "pnu_1"


@pytest.mark.parametrize("value", ["0", "1", "false", "True", "yes", "off", "t"])
def test_it_understands_yes_and_no_as_prefect_does(value: str, untold: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_TLS_INSECURE_SKIP_VERIFY", value)
    assert as_we_read() == as_prefect_reads()


@pytest.mark.parametrize("file", [*FILES, None])
def test_the_same_place_comes_first(file: str | None, untold: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file names another server; those before `file` are away."""
    order = [*FILES]
    for number, name in enumerate(order):
        if file is not None and number >= order.index(file):
            (untold / name).write_text(FILES[name].replace("127.0.0.1:9", f"127.0.0.1:{number + 1}"))
    if file is None:
        assert as_we_read() == as_prefect_reads() == (None, ClientSettings(ca_file=os.environ.get("SSL_CERT_FILE")))
    else:
        assert as_we_read()[0] == as_prefect_reads()[0] == f"http://127.0.0.1:{order.index(file) + 1}/api"
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:99/api")
    assert as_we_read()[0] == as_prefect_reads()[0] == "http://127.0.0.1:99/api"


@pytest.mark.parametrize(
    "text",
    [
        "PREFECT_API_KEY=a # a comment\n",
        'PREFECT_API_KEY="a # no comment"\n',
        "prefect_api_key=small\n",
        "OTHER=x\nPREFECT_API_KEY=${OTHER}y\n",
        "PREFECT_API_KEY\n",
        "PREFECT_API_KEY=\n",
    ],
)
def test_it_reads_the_lines_of_a_dotenv_as_prefect_does(text: str, untold: Path) -> None:
    (untold / ".env").write_text(text)
    assert (client_settings().key or None) == (as_prefect_reads()[1].key or None)


@pytest.mark.parametrize("file", [None, ".env", "prefect.toml", "environment"])
def test_it_finds_prefects_home_where_prefect_finds_it(
    file: str | None, untold: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.settings import Settings

    monkeypatch.delenv("PREFECT_HOME")
    there = untold / "there"
    if file == "environment":
        monkeypatch.setenv("PREFECT_HOME", str(there))
    elif file:
        text = f"PREFECT_HOME={there}\n" if file == ".env" else f'home = "{there}"\n'
        (untold / file).write_text(text)
    assert prefect_home() == Settings().home
