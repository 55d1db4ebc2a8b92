"""`python -m flows.run SOURCE …`: ingest by hand.

Checks the request, finds or starts a Prefect server, runs the flow, and says how it ended. Usage errors are answered
before Prefect is imported. Ctrl-C stops the tools, leaves what a later run resumes from, and exits with 130; so do
SIGTERM and a terminal that is closed. A run whose results cannot be shown is done all the same.
"""

from __future__ import annotations

import argparse
import asyncio
import atexit
import contextlib
import gc
import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NoReturn

from rich.console import Console
from rich.text import Text

from flows import safety
from flows.arguments import Command, check_arguments, parse_arguments
from flows.closing import close
from flows.console import Display
from flows.request import SourceRequest
from flows.server import Server, attach
from flows.streams import DONE, FAILED, INTERRUPTED, UNDELIVERED, delivery_failure, run_command
from tidegate.durable.home import Home
from tidegate.durable.secrets import SecretFiles
from tidegate.errors import BadInput, Category, Superseded, TidegateError, as_failure
from tidegate.model import Outcome, StageRecord
from tidegate.redact import redact_url
from tidegate.report.document import document
from tidegate.report.failure import describe
from tidegate.report.terminal import failure_panel, outcome_summary

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State

USAGE, SOME_FAILED = 2, 3
LEFT_OUT = {
    "friendly_message": "This source was left out; the others were ingested.",
    "suggested_actions": ("check the path",),
}
"""What is said of a missing path among several sources."""
STOPPED_BY = {signal.SIGTERM: 128 + signal.SIGTERM, signal.SIGHUP: 128 + signal.SIGHUP}
"""The exit codes of the signals that end a run as cleanly as Ctrl-C does."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    console = Console(stderr=True)
    given = sys.argv[1:] if argv is None else list(argv)
    try:
        words = parse_arguments(given)
    except BadInput as error:
        return _refuse(error, argparse.Namespace(sources=[], as_json="--json" in given), console)
    try:
        command = check_arguments(words)
    except TidegateError as error:
        return _refuse(error, words, console)
    for line in command.advice:
        console.print(line, soft_wrap=True)
    for one in command.missing:
        console.print(Text(f"{one.error.message}: left out, the other sources are ingested", "yellow"), soft_wrap=True)
    for number in _stop_signals():
        signal.signal(number, _terminate)
    try:
        return _run_or_tell(command, console)
    except KeyboardInterrupt as stop:  # before the flow or after it; inside, `_until_the_end` hears of it first
        code = stop.code if isinstance(stop, _Terminated) else INTERRUPTED
        return _conclude_interruption(
            command, console, [_outcome_of_stop(request, command, {}) for request in command.requests], code
        )
    finally:
        _forget_secrets(command)


class _Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP, where nothing of the flow's runs yet."""

    def __init__(self, code: int) -> None:
        super().__init__()
        self.code = code


def _terminate(number: int, _: object) -> NoReturn:
    raise _Terminated(128 + number)


def _stop_signals() -> list[signal.Signals]:
    """The signals that end a run: those that `nohup` or a script had ignored stay so."""
    return [number for number in STOPPED_BY if signal.getsignal(number) is not signal.SIG_IGN]


def _refuse(error: TidegateError, words: argparse.Namespace, console: Console) -> int:
    failure = describe(error, now=datetime.now(UTC))
    named = redact_url(words.sources[0]) if len(words.sources) == 1 else None
    console.print(failure_panel(failure, source=named))
    if words.as_json:
        sources = words.sources or [""]
        outcomes = [Outcome(status="failed", source=redact_url(text), failure=failure) for text in sources]
        _print_documents(outcomes)
    return USAGE if error.policy.category is Category.USAGE else FAILED


def _run_or_tell(command: Command, console: Console) -> int:
    try:
        return _run(command, console)
    except TidegateError as error:
        failure = describe(error, now=datetime.now(UTC))
        display = _display(command, console)
        outcomes = [_outcome_of_error(request, command, failure) for request in command.requests]
        for outcome in outcomes:
            display.tell(outcome)
        code = _conclude_command(command, console, display, outcomes)
        return USAGE if error.policy.category is Category.USAGE else code


def _run(command: Command, console: Console) -> int:
    for line in close(command.settings.store.home):
        console.print(line, soft_wrap=True)
    display = _display(command, console)
    server = attach(command.settings.store.home, display.say)
    # Registered before Prefect is imported, so it runs after Prefect's own exit handlers have sent what they hold.
    atexit.register(server.stop)
    with display:
        return _run_on(server, command, console, display)


def _display(command: Command, console: Console) -> Display:
    results = console if command.as_json else Console()
    return Display(console, results, verbose=command.verbose, titled=len(command.requests) + len(command.missing) > 1)


def _run_on(server: Server, command: Command, console: Console, display: Display) -> int:
    """Import Prefect (while our own server starts), run, tell."""
    if not command.verbose:
        # Prefect's log still reaches its server; on the terminal the display says it shorter.
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    os.environ.update(safety.environment("run"))
    with _pause_garbage_collection():
        import flows.ingest  # noqa: F401  # here, because Prefect reads its settings when it is imported
    from tasks.observe import listen

    server.wait()
    if server.ui_url:
        display.say(f"Prefect UI: {server.ui_url}")
    with listen(display):
        outcomes, code = _until_the_end(command, display)
    outcomes = [_with_ui(outcome, server) for outcome in outcomes]
    display.__exit__()
    if code is not None:
        return _conclude_interruption(command, console, outcomes, code)
    return _conclude_command(command, console, display, outcomes)


@contextlib.contextmanager
def _pause_garbage_collection() -> Iterator[None]:
    """Hardly anything that an import makes is garbage, and looking for it is a sixth of the time of Prefect's."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _until_the_end(command: Command, display: Display) -> tuple[list[Outcome], int | None]:
    """The outcomes, and the exit code of an interruption."""
    from prefect.exceptions import TerminationSignal

    runner = asyncio.Runner()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job inherits it ignored
    terminated = _Termination()
    try:
        return runner.run(terminated.watch(_run_flow(command))), None
    except (KeyboardInterrupt, asyncio.CancelledError, TerminationSignal) as stop:
        # Inside a flow Prefect's own SIGTERM handler takes our place and raises out of the loop itself, past every
        # stage. Closing the runner is what cancels them, so it comes before anybody asks how far they were.
        runner.close()
        by_prefect = STOPPED_BY[signal.SIGTERM] if isinstance(stop, TerminationSignal) else INTERRUPTED
        code = terminated.code or by_prefect
        return _so_far(command, display), code
    finally:
        runner.close()


def _so_far(command: Command, display: Display) -> list[Outcome]:
    """What an interrupted run came to: sources that are done, the one it was at, and those that it never began."""
    ended = {outcome.source: outcome for outcome in display.ended}  # a batch may come back to one after the others
    open_ones = [request for request in command.requests if request.url not in ended]
    stages = {id(open_ones[0]): display.stages} if open_ones else {}
    return [
        ended.get(request.url) or _outcome_of_stop(request, command, stages.get(id(request), {}))
        for request in command.requests
    ]


class _Termination:
    """SIGTERM and SIGHUP end the run as cleanly as Ctrl-C does."""

    code: int | None = None
    """The exit code, once there was one of them."""

    async def watch(self, work: Any) -> list[Outcome]:
        task = asyncio.ensure_future(work)
        for number in _stop_signals():
            asyncio.get_running_loop().add_signal_handler(number, self._stop, number, task)
        result: list[Outcome] = await task
        return result

    def _stop(self, number: int, task: asyncio.Future[Any]) -> None:
        self.code = 128 + number
        task.cancel()


async def _run_flow(command: Command) -> list[Outcome]:
    """The outcomes.

    Raises:
        TidegateError: the flow did not get to its own end.
    """
    from prefect.exceptions import Abort

    try:
        return await _call_flow(command)
    except Abort as error:  # somebody else speaks for this run now
        raise Superseded(str(error)) from error
    except Exception as error:  # Prefect's own too: somebody cancelled or deleted the run in the UI
        raise as_failure(error) from error


async def _call_flow(command: Command) -> list[Outcome]:
    options: dict[str, Any] = {
        "profile": command.profile,
        "quality": command.quality,
        "output_dir": command.output_dir,
        "until": command.until,
        "refresh": command.refresh,
        "wish": command.wish,
        "return_state": True,
    }
    if len(command.requests) > 1:
        from flows.batch import batch

        state: State[Any] = await batch(list(command.requests), **options)
        return _outcomes(await state.aresult(raise_on_failure=False))
    from flows.ingest import ingest

    state = await ingest(command.requests[0], **options)
    return _outcomes([await state.aresult(raise_on_failure=False)])


def _outcomes(values: Any) -> list[Outcome]:
    """What the flow returned; anything else is what stopped it from returning.

    Raises:
        TidegateError: the flow did not get to its own end.
    """
    if isinstance(values, BaseException):
        raise as_failure(values)
    for value in values:
        if isinstance(value, BaseException):
            raise as_failure(value)
    return list(values)


def _conclude_command(command: Command, console: Console, display: Display, outcomes: list[Outcome]) -> int:
    """The document, if it was asked for, and the exit code; people were told as each source ended."""
    outcomes = _add_missing_sources(command, outcomes)
    if len(outcomes) > 1:
        display.sum_up(outcomes)
    if command.as_json:
        _print_documents(outcomes)
    why = delivery_failure()
    if why is not None:
        _report_delivery_failure(command, console, outcomes, why)
    failed = [outcome for outcome in outcomes if outcome.status != "completed"]
    if not failed:
        return DONE if why is None else UNDELIVERED
    return SOME_FAILED if len(failed) < len(outcomes) else FAILED


def _add_missing_sources(command: Command, outcomes: list[Outcome]) -> list[Outcome]:
    """The outcomes of all sources that were typed, in their order."""
    every_outcome = list(outcomes)
    for one in command.missing:
        failure = describe(one.error, now=datetime.now(UTC)).model_copy(update=LEFT_OUT)
        every_outcome.insert(one.place, Outcome(status="failed", source=one.source, failure=failure))
    return every_outcome


def _report_delivery_failure(command: Command, console: Console, outcomes: list[Outcome], why: str) -> None:
    """Say on stderr what stdout did not take: the results, or where the document lies that was asked for."""
    console.print(
        Text(f"The run is done, but its results could not be written to standard output: {why}."), soft_wrap=True
    )
    for outcome in outcomes:
        folder = outcome.published.folder if outcome.published else outcome.report_folder
        if not command.as_json:
            console.print(outcome_summary(outcome), soft_wrap=True)
        elif folder is not None:
            console.print(Text(f"document {folder / 'report.json'}"), soft_wrap=True)


def _conclude_interruption(command: Command, console: Console, outcomes: list[Outcome], code: int) -> int:
    console.print("Interrupted. What was done so far is kept: run the same command again; it resumes.")
    if command.as_json:
        _print_documents(_add_missing_sources(command, outcomes))
    return code


def _print_documents(outcomes: list[Outcome]) -> None:
    documents = [document(outcome) for outcome in outcomes]
    whole = documents[0] if len(documents) == 1 else {"results": documents}
    text = json.dumps(whole, indent=2, ensure_ascii=False) + "\n"
    # JSON is UTF-8 whatever the locale says; a byte of a file name that is none becomes a JSON escape.
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode(errors="backslashreplace"))
    sys.stdout.buffer.flush()


def _outcome_of_stop(request: SourceRequest, command: Command, stages: dict[str, StageRecord]) -> Outcome:
    return Outcome(
        status="interrupted",
        source=request.url,
        profile=command.profile,
        quality=command.quality,
        stages=dict(stages),
    )


def _outcome_of_error(request: SourceRequest, command: Command, failure: Any) -> Outcome:
    return Outcome(
        status="failed", source=request.url, profile=command.profile, quality=command.quality, failure=failure
    )


def _with_ui(outcome: Outcome, server: Server) -> Outcome:
    if server.ui_url is None or outcome.flow_run_id is None:
        return outcome
    return outcome.model_copy(update={"ui_url": f"{server.ui_url}/runs/flow-run/{outcome.flow_run_id}"})


def _forget_secrets(command: Command) -> None:
    """The same command brings its secrets along again; none is left lying about."""
    files = SecretFiles(Home(command.settings.store.home).secrets)
    for request in command.requests:
        if request.secret:
            files.forget(request.secret)


if __name__ == "__main__":
    run_command(main)
