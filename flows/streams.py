"""The standard streams of a command: a reader that is slow, full or gone neither holds up nor fails the work.

`run_command` is how `python -m flows.run`, `flows.runs`, `flows.origins` and `flows.doctor` begin and end. What they,
Prefect's log and the display write is queued here, and a thread brings it to its descriptor: a paused pager stops that
thread and nothing else. What could not be written is remembered, for the exit code and for a word on stderr. A killed
command loses what still waits; nothing depends on it.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import io
import os
import select
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import NoReturn, TextIO

DONE, FAILED, UNDELIVERED, INTERRUPTED = 0, 1, 4, 130
QUEUED_BYTES = 256 * 1024
"""How much of what goes to stderr waits for a slow reader; what comes then is left out."""
PATIENCE_SECONDS = 5.0
"""How long a command that is done waits for a reader of stderr that takes nothing. A terminal is waited for without
limit, and so is the reader of stdout: there are the results."""
STDOUT, STDERR = 1, 2


class Spool:
    """What waits for the descriptors of one file, in its order, and the thread that brings it there. Thread-safe."""

    def __init__(self) -> None:
        self._queue: deque[tuple[Spooled, bytes]] = deque()
        self._changed = threading.Condition()
        self._queued_bytes = 0
        self._taken_bytes = 0
        self._thread: threading.Thread | None = None

    def put(self, stream: Spooled, data: bytes) -> None:
        """Queue it, unless it may be left out and too much waits already."""
        with self._changed:
            if stream.droppable and self._queued_bytes + len(data) > QUEUED_BYTES:
                stream.left_out += 1
                return
            if stream.left_out:
                data = b"[%d messages left out here: nobody read them]\n" % stream.left_out + data
                stream.left_out = 0
            self._queue.append((stream, data))
            self._queued_bytes += len(data)
            if self._thread is None:
                self._thread = threading.Thread(target=self._bring, name="standard-streams", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def wait_until_empty(self, patience_seconds: float | None) -> bool:
        """Whether everything was taken; `patience_seconds` is how long nothing at all may be."""
        with self._changed:
            taken, since = self._taken_bytes, time.monotonic()
            while self._queue:
                self._changed.wait(0.1)
                if self._taken_bytes != taken:
                    taken, since = self._taken_bytes, time.monotonic()
                elif patience_seconds is not None and time.monotonic() - since >= patience_seconds:
                    return False
            return True

    def _bring(self) -> None:
        while True:
            with self._changed:
                while not self._queue:
                    self._changed.wait()
                stream, data = self._queue[0]
            stream.bring(data, self._count)
            with self._changed:
                self._queue.popleft()  # only now: until then it is not delivered
                self._queued_bytes -= len(data)
                self._changed.notify_all()

    def _count(self, taken_bytes: int) -> None:
        with self._changed:
            self._taken_bytes += taken_bytes
            self._changed.notify_all()


class Spooled(io.RawIOBase):
    """One standard stream. Writing to it takes no time and never fails.

    What is `droppable` is left out where its reader is too slow; what is `shut` was closed before the command began
    (`>&-`). `failure` is why something was not written; a reader that has left (`… | head`, a terminal that was closed)
    is no failure, and from then on nobody is written to.
    """

    name = "standard stream"
    mode = "wb"

    def __init__(self, descriptor: int, spool: Spool, *, droppable: bool, shut: bool) -> None:
        self.droppable = droppable
        self.failure: str | None = None
        self.left_out = 0
        self._descriptor = descriptor
        self._spool = spool
        self._shut = shut
        self._reader_left = False
        self._given_up = False

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        with contextlib.suppress(OSError):
            return os.isatty(self._descriptor)
        return False

    def write(self, data: bytes) -> int:  # type: ignore[override]
        copy = bytes(data)
        if copy and self._shut:
            self.failure = "it is closed"
        elif copy:
            self._spool.put(self, copy)
        return len(copy)

    def drain(self, patience_seconds: float | None) -> bool:
        """Wait until everything is written, or cannot be; False when its reader took nothing for so long.

        Ctrl-C ends the waiting, and what was given up once is not waited for again.
        """
        if not self._given_up:
            try:
                self._given_up = not self._spool.wait_until_empty(patience_seconds)
            except KeyboardInterrupt:
                self._given_up = True
        return not self._given_up

    def bring(self, data: bytes, count: Callable[[int], None]) -> None:
        """Write it all to the descriptor, or remember why not. The thread of the spool calls it."""
        rest = memoryview(data)
        while rest and not self._reader_left:
            try:
                taken = os.write(self._descriptor, rest)
            except BlockingIOError:  # somebody who shares the descriptor has made it so
                select.select([], [self._descriptor], [], 1.0)
                continue
            except (BrokenPipeError, ConnectionResetError):
                self._reader_left = True
            except OSError as error:
                if self.isatty() or _hung_up(self._descriptor):
                    self._reader_left = True
                else:
                    self.failure = os.strerror(error.errno or errno.EIO)
                return
            else:
                count(taken)
                rest = rest[taken:]


def _hung_up(descriptor: int) -> bool:
    """Whether it was a terminal that is gone: a descriptor of it is none any more, and every write is an EIO."""
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(events & select.POLLHUP for _, events in poll.poll(0))


def run_command(main: Callable[[], int]) -> NoReturn:
    """Run a command with such streams, wait until they are read, and leave with its exit code."""
    departure = _Departure()
    atexit.register(departure)  # registered first, so it runs after everybody else's exit handlers
    _spool_standard_streams()
    try:
        departure.code = main()
    except SystemExit as ended:  # argparse's own
        departure.code = int(ended.code or DONE)
    except KeyboardInterrupt:
        departure.code = INTERRUPTED
    why = delivery_failure(PATIENCE_SECONDS if departure.code >= INTERRUPTED - signal.SIGINT else None)
    if why is not None and departure.code == DONE:
        print(f"What belongs on standard output could not be written there: {why}.", file=sys.stderr)  # noqa: T201
        departure.code = UNDELIVERED
    stream = _spool_of(sys.stderr)
    if stream is not None:
        stream.drain(None if stream.isatty() else PATIENCE_SECONDS)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # everything is told; what is left is to stop the server
    sys.exit(departure.code)


def delivery_failure(patience_seconds: float | None = None) -> str | None:
    """Wait until stdout has taken everything; gives why it has not, if so. A reader that has left is no reason."""
    stream = _spool_of(sys.stdout)
    if stream is None:
        return None
    if not stream.drain(patience_seconds):
        return "nobody reads it"
    return stream.failure


def _spool_of(text: TextIO | None) -> Spooled | None:
    raw = getattr(text, "buffer", None)
    return raw if isinstance(raw, Spooled) else None


def _spool_standard_streams() -> None:
    """Put our streams in the place of Python's. Those of one terminal share a spool, or their lines would mix."""
    shut = {number: stream is None for number, stream in enumerate((sys.stdin, sys.stdout, sys.stderr))}
    _fill_standard_descriptors()
    out = Spool()
    error = out if os.path.sameopenfile(STDOUT, STDERR) else Spool()
    sys.stdout = _text_stream(STDOUT, out, sys.stdout, shut=shut[STDOUT], droppable=False)
    sys.stderr = _text_stream(STDERR, error, sys.stderr, shut=shut[STDERR], droppable=True)


def _fill_standard_descriptors() -> None:
    """What is closed (`>&-`) is the number of the next file that somebody opens, and prints would end up in there."""
    for number in range(STDERR + 1):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free


def _text_stream(number: int, spool: Spool, before: TextIO | None, *, shut: bool, droppable: bool) -> io.TextIOWrapper:
    raw = Spooled(number, spool, droppable=droppable, shut=shut)
    encoding = before.encoding if before is not None else "utf-8"
    # A locale without "×" is no reason to fail.
    return io.TextIOWrapper(raw, encoding=encoding, errors="backslashreplace", write_through=True)


class _Departure:
    """Leaves without taking the interpreter apart, which takes 0.3 s after Prefect and frees what is freed anyway."""

    code = FAILED

    def __call__(self) -> None:
        for text in (sys.stdout, sys.stderr):
            stream = _spool_of(text)
            if stream is not None:
                stream.drain(PATIENCE_SECONDS)
        os._exit(self.code)
