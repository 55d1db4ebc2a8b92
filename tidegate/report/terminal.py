"""What a person reads of a run: its progress in one line, and how it ended.

`flows/console.py` prints it; `tasks/progress.py` shows the line in the Prefect UI. Pure: it makes text and rich
renderables and prints nothing itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from tidegate.events import Advance, Strain
from tidegate.model import Failure, OriginStats, Outcome, Sidecar
from tidegate.redact import visible_line
from tidegate.report.units import MADE, clock, duration, human_size, quantity
from tidegate.settings import Settings


def failure_panel(
    failure: Failure, log: str | None = None, report: str | None = None, source: str | None = None
) -> Panel:
    """The failure as a panel: what happened to which source, what to do, what to quote."""
    actions = Table.grid(padding=(0, 1))
    for action in failure.suggested_actions:
        actions.add_row("•", Text(visible_line(action)))
    rows: list[RenderableType] = [Text(failure.message), Text(), actions, Text()]
    where = f" in {failure.stage}" if failure.stage else ""
    rows.append(Text(f"{failure.type}{where} · reference {failure.reference}", style="dim"))
    named = {"source": source, "error log": log, "report": report}
    rows += [
        Text(visible_line(f"{name}: {path}"), style="dim", overflow="fold") for name, path in named.items() if path
    ]
    return Panel(Group(*rows), title=Text(failure.friendly_message), border_style="red", title_align="left")


def outcome_summary(outcome: Outcome, seconds: float | None = None) -> Text:
    """What is worth knowing about a result, and last where it is: one line each, to be printed without wrapping.

    `seconds` is the total time, where it is known.
    """
    rows = [("finding", finding.message) for finding in outcome.findings]
    rows += [("origin", origin_line(origin)) for origin in outcome.origins if origin.retries]
    if outcome.stages and all(record.cached for record in outcome.stages.values()):
        rows.append(("note", "already done; nothing was repeated"))
    places = list(_places(outcome))
    if seconds is not None and places:
        rows.append(("time", duration(seconds)))
    rows += places
    return Text("\n").join(
        Text.assemble((f"{name:<8}", "yellow" if name == "finding" else "dim"), visible_line(value))
        for name, value in rows
    )


def _places(outcome: Outcome) -> Iterator[tuple[str, str]]:
    if outcome.published is not None:
        yield from (("beside", str(outcome.published.beside(one.name))) for one in _sidecars(outcome))
        yield "report", str(outcome.published.folder / "report.html")
    elif outcome.download_path is not None:
        yield "source", str(outcome.download_path)
    if outcome.remux is not None:
        yield "result", _result_line(outcome)
    if outcome.published is not None:
        yield "file", str(outcome.published.video)


def batch_summary(outcomes: Sequence[Outcome], seconds: float) -> Text:
    """How many of several sources are done, and of each other one why it is not."""
    done = sum(outcome.status == "completed" for outcome in outcomes)
    lines = [
        Text(f"{done} of {len(outcomes)} sources done in {duration(seconds)}", "green" if not _open(outcomes) else "")
    ]
    for outcome in _open(outcomes):
        failure = outcome.failure
        why = f"{failure.friendly_message} {failure.message}" if failure else "not finished"
        lines.append(Text.assemble((f"{outcome.status:<8}", "red"), visible_line(f"{outcome.source}: {why}")))
    return Text("\n").join(lines)


def _open(outcomes: Sequence[Outcome]) -> list[Outcome]:
    return [outcome for outcome in outcomes if outcome.status != "completed"]


def origin_line(origin: OriginStats) -> str:
    """`http://host:80  7 requests, 2 failed (server error), 12.3 MB, 3.1 MB/s`."""
    parts = [_requests(origin)]
    if origin.bytes_received:
        parts.append(human_size(origin.bytes_received))
    if origin.per_second:
        parts.append(f"{human_size(origin.per_second)}/s")
    if origin.breaker != "closed":
        parts.append(f"requests are paused (breaker {origin.breaker.replace('_', ' ')})")
    return f"{origin.origin}  " + ", ".join(parts)


def _requests(origin: OriginStats) -> str:
    """`7 requests, 3 failed (1 stalled transfer, 2 server error)`; `1 request failed: not found`."""
    requests, failed = quantity(origin.attempts, "request"), sum(origin.failures.values())
    kinds = {kind.replace("_", " "): count for kind, count in origin.failures.items()}
    kinds_text = ", ".join(f"{count} {kind}" if len(kinds) > 1 else kind for kind, count in kinds.items())
    if failed == origin.attempts == 1:
        return f"{requests} failed: {kinds_text}"
    return f"{requests}, {failed} failed ({kinds_text})" if failed else requests


def limits_line(settings: Settings) -> str:
    """The limits in force, as a job begins."""
    transfer, gate, process = settings.transfer, settings.gate, settings.process
    return (
        f"request {transfer.request_timeout.total_seconds():g} s, "
        f"stall {transfer.stall_timeout.total_seconds():g} s below {transfer.minimum_speed} B/s, "
        f"{transfer.tries} tries without gain, {transfer.throttle_budget.total_seconds():g} s for Retry-After, "
        f"{gate.connections_per_origin} connections an origin, breaker after {gate.failures} failures, "
        f"tools {process.stall_timeout.total_seconds():g} s without progress, "
        f"addresses {settings.network.policy or 'open'}"
    )


def progress_line(event: Advance) -> str:
    """`download  12.3 MB of 48.0 MB (26 %), 3.1 MB/s, 0:11.5 left`."""
    show = human_size if event.unit == "bytes" else clock
    what = f"{event.stage}, {event.doing}" if event.doing else event.stage
    line = f"{what}  {show(event.done)}"
    if event.total:
        line += f" of {show(event.total)} ({min(100, round(100 * event.done / event.total))} %)"
    if event.per_second:
        line += f", {human_size(event.per_second)}/s" if event.unit == "bytes" else f", {event.per_second:.1f}×"
        if event.total and event.total > event.done:
            line += f", {clock((event.total - event.done) / event.per_second)} left"
    return line


def strain_line(event: Strain) -> str:
    """`ffmpeg: 412.3 MB of 8.6 GB, 187 % CPU, risk low`."""
    memory = human_size(event.memory_bytes)
    if event.memory_cap_bytes:
        memory += f" of {human_size(event.memory_cap_bytes)}"
    return f"{event.tool}: {memory}, {event.cpu_percent:.0f} % CPU, risk {event.risk}"


def _sidecars(outcome: Outcome) -> tuple[Sidecar, ...]:
    return outcome.remux.decision.sidecars if outcome.remux else ()


def _result_line(outcome: Outcome) -> str:
    assert outcome.remux is not None  # noqa: S101
    media = outcome.remux.media
    kinds = [
        f"{media.video.codec} {media.video.width}×{media.video.height}" if media.video else "",
        media.audio.codec if media.audio else "",
        clock(media.length_seconds),
        human_size(outcome.remux.asset.main.size_bytes),
        MADE[outcome.remux.decision.strategy],
    ]
    return ", ".join(kind for kind in kinds if kind)
