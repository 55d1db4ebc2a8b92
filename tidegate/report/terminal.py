"""What a person reads of a run: its progress in one line, and how it ended.

`flows/console.py` prints it; `tasks/progress.py` shows the line in the Prefect UI. Pure: it makes text and rich
renderables and prints nothing itself.
"""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from tidegate.events import Advance, Strain
from tidegate.model import Failure, OriginStats, Outcome, Sidecar
from tidegate.redact import visible_line
from tidegate.report.units import clock, human_size
from tidegate.settings import Settings


def failure_panel(failure: Failure, log: str | None = None, report: str | None = None) -> Panel:
    """The failure as a panel: what happened, what to do, what to quote."""
    actions = Table.grid(padding=(0, 1))
    for action in failure.suggested_actions:
        actions.add_row("•", Text(visible_line(action)))
    rows: list[RenderableType] = [Text(failure.message), Text(), actions, Text()]
    where = f" in {failure.stage}" if failure.stage else ""
    rows.append(Text(f"{failure.type}{where} · reference {failure.reference}", style="dim"))
    named = {"evidence": log, "report": report}
    rows += [Text(f"{name}: {path}", style="dim", overflow="fold") for name, path in named.items() if path]
    return Panel(Group(*rows), title=Text(failure.friendly_message), border_style="red", title_align="left")


def outcome_summary(outcome: Outcome) -> Text:
    """Where the results are, and what is worth knowing about them: one line each, to be printed without wrapping."""
    rows: list[tuple[str, str]] = []
    if outcome.remux is not None:
        rows.append(("result", _result_line(outcome)))
    if outcome.published is not None:
        rows.append(("file", str(outcome.published.video)))
        rows += [("beside", str(outcome.published.beside(one.name))) for one in _sidecars(outcome)]
        rows.append(("report", str(outcome.published.folder / "report.html")))
    elif outcome.download_path is not None:
        rows.append(("source", str(outcome.download_path)))
    rows += [("origin", origin_line(origin)) for origin in outcome.origins if origin.failures]
    if outcome.stages and all(record.cached for record in outcome.stages.values()):
        rows.append(("note", "every stage came from its checkpoint"))
    rows += [("finding", finding.message) for finding in outcome.findings]
    return Text("\n").join(
        Text.assemble((f"{name:<8}", "yellow" if name == "finding" else "dim"), visible_line(value))
        for name, value in rows
    )


def origin_line(origin: OriginStats) -> str:
    """`http://host:80  7 requests, 2 failed (2 server_error), 12.3 MB, 3.1 MB/s`."""
    failed = ", ".join(f"{count} {kind}" for kind, count in origin.failures.items())
    parts = [f"{origin.attempts} requests", *([f"{sum(origin.failures.values())} failed ({failed})"] if failed else [])]
    if origin.bytes_received:
        parts.append(human_size(origin.bytes_received))
    if origin.per_second:
        parts.append(f"{human_size(origin.per_second)}/s")
    if origin.breaker != "closed":
        parts.append(f"breaker {origin.breaker}")
    return f"{origin.origin}  " + ", ".join(parts)


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
        f"by {outcome.remux.decision.strategy}",
    ]
    return ", ".join(kind for kind in kinds if kind)
