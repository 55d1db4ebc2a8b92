"""A misbehaving HTTP/1.1 origin on loopback: every fault the downloader must survive, told as data.

Fixtures use it as a library, `make demo` and fault runs as a process. It promises that its threads and
sockets are gone when it has stopped, and a journal of every request, even of one that is still under way.

    with Origin({"clip.mp4": Resource(Path("clip.mp4"), story="2M drop, 503, 2M stall 3s, ok")}) as origin:
        download(origin.url("clip.mp4"))
        assert origin.requests_for("clip.mp4")[1].status == 503

    python -m tests.support.origin --root DIR --story clip.mp4='2M drop, 503, ok' --port 0 --journal FILE

The process prints one line, `http://127.0.0.1:PORT`, when it is ready, and stops on SIGTERM or SIGINT.

Each step of a story governs one body-serving request for its file. Peeks (`bytes=0-0`, or a bounded or suffix
range of at most 1 MiB, at any time) and HEAD take no step and are answered correctly, unless the story begins
with `from-first:` (peeks count) or `always:` (HEAD too). `tests/support/story.py` lists every clause.
"""

import argparse
import contextlib
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Self
from urllib.parse import quote, unquote

from tests.support.answers import RequestHead, answer, refusal
from tests.support.content import Content, Resource, Synthetic
from tests.support.journal import Ended, Exchange, Request
from tests.support.sending import goes_on, send
from tests.support.served import Served
from tests.support.story import Step, Story, parse_size
from tests.support.wire import Gone, Wire

__all__ = ["Content", "Origin", "Request", "Resource", "Step", "Story", "Synthetic", "main"]


TCP_ESTABLISHED = 1
"""The first byte of the kernel's `struct tcp_info` while neither side has closed (include/net/tcp_states.h)."""


class Origin:
    """The server. `resources` are served by name; files below `root` too, also those that come later.

    `stories` maps a name, or a pattern such as `*.ts`, to a story; it goes before the story inside a
    `Resource`. Each file has its own place in a story that comes from a pattern.
    """

    def __init__(
        self,
        resources: Mapping[str, Content | Resource] | None = None,
        *,
        root: Path | None = None,
        stories: Mapping[str, str | Story] | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        journal: Path | None = None,
    ) -> None:
        self.host, self.port, self.root = host, port, root
        self.journal = journal
        self._stories = {name: _story(story) for name, story in (stories or {}).items()}
        self._served: dict[str, Served] = {}
        self._exchanges: list[Exchange] = []
        self.accepted = 0
        """How many connections there have been."""
        self.most_at_once = 0
        """How many of them their clients held open at the same time, at most."""
        self._connections: dict[threading.Thread, socket.socket] = {}
        self._lock = threading.RLock()
        for name, content in (resources or {}).items():
            self.add(name, content)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *failure: object) -> None:
        self.stop()

    def start(self) -> Self:
        """Listen; the port is known afterwards and kept over a stop, so that an origin can come back."""
        self._listener = socket.create_server((self.host, self.port), backlog=128)
        self.port = self._listener.getsockname()[1]
        self._acceptor = threading.Thread(target=self._accept, name="origin", daemon=True)
        self._acceptor.start()
        return self

    def stop(self) -> None:
        """Reset what is open and wait for every thread."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join()
        self._listener.close()
        with self._lock:
            threads = list(self._connections)
            for connection in self._connections.values():
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()

    def url(self, name: str = "") -> str:
        """The address of a file, or of the origin itself."""
        return f"http://{self.host}:{self.port}" + (f"/{quote(name)}" if name else "")

    def add(self, name: str, content: Content | Resource) -> None:
        """Serve a file, or serve another one by this name from now on."""
        resource = content if isinstance(content, Resource) else Resource(content)
        story = self._story_for(name) or _story(resource.story)
        with self._lock:
            self._served[name] = Served(name, resource, story)

    def tell(self, name: str, story: str | Story) -> None:
        """Begin another story for a file."""
        self._known(name).tell(_story(story))

    def change(self, name: str) -> None:
        """Replace a file's bytes and validators, as the step `change` does."""
        self._known(name).change()

    @property
    def requests(self) -> list[Request]:
        """Every request so far, in order; those under way with what was sent until now."""
        with self._lock:
            return [exchange.request for exchange in self._exchanges]

    def requests_for(self, name: str) -> list[Request]:
        """The requests for one file."""
        return [request for request in self.requests if request.name == name]

    def bytes_sent(self, name: str) -> int:
        """Bytes of bodies sent for one file, all answers together."""
        return sum(request.bytes_sent for request in self.requests_for(name))

    def wait_for(self, holds: Callable[[Self], bool], timeout_seconds: float = 10.0) -> None:
        """Wait until something can be seen in the journal, such as `lambda o: o.bytes_sent("a.mp4") > 0`."""
        deadline = time.monotonic() + timeout_seconds
        while not holds(self):
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {timeout_seconds} s; the journal: {self.requests}")
            time.sleep(0.005)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._converse, args=(connection,), name="origin", daemon=True)
            with self._lock:
                self._connections[thread] = connection
                self.accepted += 1
                self.most_at_once = max(self.most_at_once, sum(map(is_held, self._connections.values())))
            thread.start()

    def _converse(self, connection: socket.socket) -> None:
        try:
            wire = Wire(connection)
            while (head := wire.read_head()) and self._respond(wire, head):
                pass
        except OSError:
            # A client may be gone before its connection was looked at, a file before it was opened.
            pass
        finally:
            connection.close()
            with self._lock:
                del self._connections[threading.current_thread()]

    def _respond(self, wire: Wire, head: RequestHead) -> bool:
        """Answer one request; whether the connection goes on."""
        served = self._find(unquote(head.path).lstrip("/"))
        if served is None or head.method not in ("GET", "HEAD"):
            decided, step, shown = refusal(405 if served else 404), Step(), None
        else:
            shown, step = served.take(head)
            decided = answer(head, shown, step, time.time())
        exchange = Exchange(head, decided.status, step, time.time())
        with self._lock:
            self._exchanges.append(exchange)
        ended: Ended = "client-gone"
        try:
            ended = send(wire, head, decided, step, shown, exchange.count)
        except Gone:
            pass
        finally:
            exchange.end(ended)
            self._note(exchange.request)
        return ended == "complete" and goes_on(head, step)

    def _note(self, request: Request) -> None:
        if self.journal:
            with self._lock, self.journal.open("a") as file:
                file.write(request.line() + "\n")

    def _known(self, name: str) -> Served:
        served = self._find(name)
        if served is None:
            raise KeyError(name)
        return served

    def _find(self, name: str) -> Served | None:
        with self._lock:
            if name not in self._served and (file := self._below_root(name)):
                self.add(name, file)
            served = self._served.get(name)
            return None if served and _vanished(served.resource.content) else served

    def _below_root(self, name: str) -> Path | None:
        if self.root is None:
            return None
        file = (self.root / name).resolve()
        return file if file.is_file() and file.is_relative_to(self.root.resolve()) else None

    def _story_for(self, name: str) -> Story | None:
        if name in self._stories:
            return self._stories[name]
        return next((story for pattern, story in self._stories.items() if fnmatchcase(name, pattern)), None)


def is_held(connection: socket.socket) -> bool:
    """Whether the client has not closed it. On a busy machine its thread may hear of that seconds later.

    The kernel knows at once, on Linux; elsewhere every connection counts whose thread has not ended.
    """
    if not hasattr(socket, "TCP_INFO"):
        return True
    try:
        return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == TCP_ESTABLISHED
    except OSError:
        return False


def _vanished(content: Content) -> bool:
    return isinstance(content, Path) and not content.is_file()


def _story(story: str | Story) -> Story:
    return Story.parse(story) if isinstance(story, str) else story


def _named(text: str) -> tuple[str, str]:
    match = re.fullmatch(r"([^=]+)=(.+)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {text!r}")
    return match[1], match[2]


def _told(text: str) -> tuple[str, Story]:
    name, story = _named(text)
    try:
        return name, Story.parse(story)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _synthetic(text: str) -> tuple[str, Synthetic]:
    name, value = _named(text)
    size, _, seed = value.partition(":")
    return name, Synthetic(parse_size(size), int(seed or 0))


def _arguments() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("tests.support.origin", description=__doc__, formatter_class=raw)
    add = parser.add_argument
    add("--root", type=Path, help="serve the files below this folder")
    add("--story", type=_told, action="append", default=[], metavar="NAME=STORY")
    add("--synthetic", type=_synthetic, action="append", default=[], metavar="NAME=SIZE[:SEED]")
    add("--repr-digest", action="append", default=[], metavar="NAME", help="send Repr-Digest")
    add("--etag", type=_named, action="append", default=[], metavar="NAME=strong|weak|none|TEXT")
    add("--content-type", type=_named, action="append", default=[], metavar="NAME=TYPE")
    add("--host", default="127.0.0.1")
    add("--port", type=int, default=0)
    add("--journal", type=Path, help="append one JSON line for each answered request")
    return parser


def _resources(told: argparse.Namespace) -> dict[str, Resource]:
    contents: dict[str, Content] = dict(told.synthetic)
    etags, types, digests = dict(told.etag), dict(told.content_type), told.repr_digest
    for name in {*digests, *etags, *types} - contents.keys():
        contents[name] = (told.root or Path()) / name
    return {name: _resource(name, of, digests, etags, types) for name, of in contents.items()}


def _resource(
    name: str, content: Content, digests: list[str], etags: dict[str, str], types: dict[str, str]
) -> Resource:
    etag = etags.get(name, "strong")
    return Resource(
        content,
        etag=None if etag == "none" else etag,
        repr_digest="sha-256" if name in digests else None,
        content_type=types.get(name),
    )


def main(arguments: list[str] | None = None) -> None:
    """Serve until SIGTERM or SIGINT."""
    told = _arguments().parse_args(arguments)
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    origin = Origin(
        _resources(told),
        root=told.root,
        stories=dict(told.story),
        host=told.host,
        port=told.port,
        journal=told.journal,
    )
    with origin:
        print(origin.url(), flush=True)
        stopped.wait()


if __name__ == "__main__":
    main()
