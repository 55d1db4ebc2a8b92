"""Where the engine's events go while Prefect runs it: the run's log, and whoever in this process listens.

`flows/ingest.py` makes one observer per run; the command's terminal display subscribes as a listener. Events are for
people: losing one loses nothing. Prefect's own lines about a run that was stopped are put right in `tasks/stops.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger

from tasks import stops
from tidegate.events import Event, Note, Observer, PathTaken, StageEnded, StageStarted

_listeners: list[Observer] = []

_LEVELS = {
    "debug": logging.DEBUG,
    "detail": logging.INFO,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


@contextmanager
def listen(observer: Observer) -> Iterator[None]:
    """While it lasts, `observer` hears the events of every run in this process."""
    _listeners.append(observer)
    try:
        yield
    finally:
        _listeners.remove(observer)


def run_observer() -> Observer:
    """An observer for the flow run that is current now; it may be called from any thread."""
    stops.install()
    logger = _run_logger()

    def tell(event: Event) -> None:
        _log(logger, event)
        for listener in tuple(_listeners):
            listener(event)

    return tell


def _run_logger() -> logging.Logger | logging.LoggerAdapter[logging.Logger]:
    try:
        return get_run_logger()
    except MissingContextError:
        return logging.getLogger("tidegate")


def _log(logger: logging.Logger | logging.LoggerAdapter[logging.Logger], event: Event) -> None:
    match event:
        case Note():
            logger.log(_LEVELS[event.level], event.message)
        case StageStarted():
            logger.info("%s: started", event.stage)
        case StageEnded(cached=True):
            logger.info("%s: already done", event.stage)
        case StageEnded():
            logger.info("%s: %s after %.1f s", event.stage, event.state, event.seconds)
        case PathTaken():
            logger.info("%s: the %s path%s", event.part, event.path, f" ({event.why})" if event.why else "")
        case _:
            pass
