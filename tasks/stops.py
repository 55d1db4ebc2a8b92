"""What Prefect's log says of a run that was stopped: that it was stopped, and not that it crashed.

`tasks/observe.py` installs it where a run begins. Prefect tells of a cancellation, Ctrl-C and SIGTERM as "Crash
detected!" and "Finished in state Running()", as errors. Here those lines say what happened; what has really crashed
passes as it is. It changes records of the log only, never a state.
"""

from __future__ import annotations

import logging
import re

LOGGERS = ("prefect.flow_runs", "prefect.task_runs")
KEPT = "what is done is kept, and the next run goes on from there"
STOPS = {
    "Execution was cancelled by the runtime environment.": f"Stopped before its end; {KEPT}",
    "Execution was aborted by an interrupt signal.": f"Stopped with Ctrl-C; {KEPT}",
    "Execution was aborted by a termination signal.": f"Stopped with SIGTERM; {KEPT}",
}
"""What Prefect says of an exception that somebody's wish to stop has raised, and what it means."""
_CRASH = "Crash detected! "
_SAID_AGAIN = re.compile(
    r"Finished in state (?:(?:Running|Cancelling|Pending)\(|Crashed\(['\"](?:" + "|".join(map(re.escape, STOPS)) + "))"
)
"""The line after it, which adds nothing: a run did not finish in the state that it was in when it was stopped."""


class Stops(logging.Filter):
    """Turns the lines of a stop into what they mean, and leaves out those that only repeat it."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.ERROR:
            return True
        message = record.getMessage()
        stop = STOPS.get(message.removeprefix(_CRASH)) if message.startswith(_CRASH) else None
        if stop is not None:
            record.msg, record.args = stop, ()
            record.levelno, record.levelname = logging.WARNING, logging.getLevelName(logging.WARNING)
        return _SAID_AGAIN.match(message) is None


_FILTER = Stops()


def install() -> None:
    """From here on; once is enough, and more does no harm."""
    for name in LOGGERS:
        logging.getLogger(name).addFilter(_FILTER)  # the same filter is added once only
