"""A failure as it is reported: made once, shown in panel, JSON, report and `.err.log`.

Flows call `describe` where a run ends. Pure: time and reference come from the caller.
"""

from __future__ import annotations

import json
import secrets
from datetime import datetime
from typing import Any

from tidegate.errors import LOWER_QUALITY, RESUME, RETRY, Evidence, TidegateError
from tidegate.model import Failure
from tidegate.redact import redact_text, visible_line
from tidegate.resilience.quality import rung_below_height

NEWLINE, INDENTED = "\n", "\n          "
"""A message of several lines is told apart from our own lines."""
NOTHING_DOWNLOADED = (None, "probe")
"""A run that failed in one of these has nothing to resume from."""
EVIDENCE_BYTES = 1_000_000
"""The most evidence that one run may leave, in bytes (DESIGN §4)."""


def describe(error: TidegateError, *, now: datetime, identifier: str | None = None, source: str = "") -> Failure:
    """The report of a failure at `now` (aware). URLs in tool output are redacted.

    `source` is what the run was about: of a local file nobody says that it needs a login.
    """
    identifier = identifier or secrets.token_hex(4)
    policy, of_file = error.policy, source.startswith("file:")
    friendly = (policy.friendly_for_a_file if of_file else "") or policy.friendly
    actions = ((redact_text(error.hint),) if error.hint else ()) + _actions(error, of_file=of_file)
    return Failure(
        id=identifier,
        type=error.type,
        category=policy.category,
        message=redact_text(error.message),
        friendly_message=friendly,
        suggested_actions=actions,
        retryable=policy.retryable,
        retry_after_seconds=error.retry_after_seconds,
        stage=error.stage,
        reference=f"TG-{now:%Y%m%d-%H%M%S}-{identifier}",
        exit_code=error.evidence.exit_code,
        evidence=_redact(error.evidence),
        at=now,
    )


def _actions(error: TidegateError, *, of_file: bool) -> tuple[str, ...]:
    """What the table says; where a picture could not be made, with the rung that would be smaller, if there is one."""
    actions = (error.policy.actions_for_a_file if of_file else ()) or error.policy.actions
    if error.stage in NOTHING_DOWNLOADED:
        actions = tuple(RETRY if action == RESUME else action for action in actions)
    if error.target_height is None:
        return actions
    smaller = rung_below_height(error.target_height)
    lower = (f"try a lower quality: --quality {smaller.quality}",) if smaller else ()
    return tuple(word for action in actions for word in (lower if action == LOWER_QUALITY else (action,)))


def err_log(failure: Failure, source: str) -> str:
    """The `.err.log`: everything that is known, for whoever looks into it. At most EVIDENCE_BYTES."""
    lines = [
        f"{failure.reference}  {failure.at:%Y-%m-%d %H:%M:%S %Z}",
        f"source:   {visible_line(source)}",
        f"stage:    {failure.stage or 'before any stage'}",
        f"failure:  {failure.type} ({failure.category})",
        f"message:  {failure.message.replace(NEWLINE, INDENTED)}",
        f"          {failure.friendly_message}",
        *(f"to do:    {action}" for action in failure.suggested_actions),
        f"may succeed when run again: {'yes' if failure.retryable else 'no'}",
        "",
        *_evidence_lines(failure),
    ]
    text = "\n".join(lines).encode(errors="replace")[: EVIDENCE_BYTES - 1]
    return text.decode(errors="ignore") + "\n"


def _evidence_lines(failure: Failure) -> list[str]:
    lines: list[str] = []
    for name, value in failure.evidence.items():
        if name in ("output_head", "output_tail"):
            lines += [f"--- {name.replace('_', ' ')} ---", str(value), ""]
        else:
            lines.append(f"{name}: {value if isinstance(value, str) else json.dumps(value)}")
    return lines


def _redact(evidence: Evidence) -> dict[str, Any]:
    return {name: _redact_value(value) for name, value in evidence.as_dict().items()}


def _redact_value(value: Any) -> Any:
    """Text by text: in the JSON of it all, a URL would run on through an escaped quote or line end."""
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, dict):
        return {name: _redact_value(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_redact_value(inner) for inner in value]
    return value
