"""The process of a Prefect server, before it reads a request: who connects and does nothing is not waited for."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn

from flows import serving
from flows.port import listener_on

LARGE = 20_000_000


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Large answers; a slow one where that is asked for."""
    await asyncio.sleep(0.6 if scope["path"] == "/slow" else 0)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(LARGE).encode())]})
    for _ in range(20):
        await send({"type": "http.response.body", "body": bytes(LARGE // 20), "more_body": True})
    await send({"type": "http.response.body"})


@asynccontextmanager
async def served() -> AsyncIterator[int]:
    with listener_on(0) as listener:
        config = uvicorn.Config(application, http=serving.Patient, lifespan="off", log_level="critical")
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            while not server.started:  # noqa: ASYNC110  # uvicorn has no event for it
                await asyncio.sleep(0.01)
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            await task


async def bytes_heard(port: int, *said: bytes, pause: float = 0.1) -> int:
    """How much comes back until it ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    came = b""
    try:
        for some in said:
            writer.write(some)
            await asyncio.sleep(pause)
        came = await asyncio.wait_for(reader.read(), 120)
    except ConnectionError:
        pass
    finally:
        writer.close()
    return len(came)


def play(talk: Callable[[int], Awaitable[Any]]) -> Any:
    async def whole() -> Any:
        async with served() as port:
            return await talk(port)

    return asyncio.run(whole())


@pytest.mark.parametrize(
    "said", [(), (b"G",), (b"GET / HTTP/1.1\r\nHost: x\r\n",), tuple(b"X-%d: 1\r\n" % n for n in range(30))]
)
def test_a_connection_whose_request_does_not_come_is_cut(
    said: tuple[bytes, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "HEAD_SECONDS", 0.3)
    first = (b"GET / HTTP/1.1\r\n",) if len(said) > 2 else ()
    assert play(lambda port: bytes_heard(port, *first, *said)) < 1000


def test_one_that_is_at_work_is_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "HEAD_SECONDS", 0.3)
    request = b"GET /slow HTTP/1.1\r\nHost: x\r\n"
    twice = request + b"\r\n" + request + b"Connection: close\r\n\r\n"
    assert play(lambda port: bytes_heard(port, twice)) > 2 * LARGE


def test_one_that_fetches_nothing_of_its_answer_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "FETCH_SECONDS", 0.3)

    async def talk(port: int) -> int:
        client = socket.create_connection(("127.0.0.1", port))
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        await asyncio.sleep(1.5)
        client.settimeout(5)
        came = 0
        try:
            while some := await asyncio.to_thread(client.recv, 1_000_000):
                came += len(some)
        except ConnectionError:
            pass
        finally:
            client.close()
        return came

    assert play(talk) < LARGE


def test_what_is_no_request_writes_nothing_into_the_log(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("uvicorn.error")
    upgrade = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, close\r\nUpgrade: h2c\r\n\r\n"

    async def talk(port: int) -> None:
        logger.setLevel(logging.WARNING)
        logger.addHandler(caplog.handler)
        for said in (b"GET /\0 HTTP/1.1\r\n\r\n", b"\x16\x03\x01", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", upgrade):
            await bytes_heard(port, said + b"\r\n")
        logger.warning("Something else")

    try:
        serving.keep_silent_about_strangers()
        play(talk)
    finally:
        logger.filters.clear()
        logger.removeHandler(caplog.handler)
    assert [record.message for record in caplog.records if record.name == "uvicorn.error"] == ["Something else"]


def test_a_server_may_have_many_connections() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
        serving.allow_connections()
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == min(before[1], serving.FILES)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
