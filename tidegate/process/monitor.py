"""The resource monitor: beside the supervisor's watch it looks at what a tool and everything below it use.

It samples with psutil, warns, tells the strain, and holds the tree to its memory cap where no control group of the
kernel's does: then it glances at the memory between two full looks. Its own failure never ends the child. What it costs
is bounded: below 1 % of a core.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import replace

import anyio
import psutil

from tidegate.errors import TidegateError
from tidegate.events import Note, PathTaken, Risk, Strain
from tidegate.process.child import Child, memory_failure, note_peak
from tidegate.process.usage import TREND_SAMPLES, Alerts, Limits, Sample
from tidegate.resilience.load import LoadMeter
from tidegate.resilience.risk import rises_to_tell, risk_level

FIRST_LOOK_SECONDS = 0.1
"""When the monitor first looks; each pause is then twice as long until it is as long as it should be."""
COST_SHARE = 150
"""How many times as long as a look takes the monitor rests at least: on a host with thousands of processes, too, it
stays below 1 % of a core. Never longer than a tick: that long a tree may be beyond its cap."""


async def monitor(child: Child) -> None:
    """Look at what the tree uses, hold it to its cap, and warn. What goes wrong in here never ends the child."""
    try:
        await _Monitor(child).run()
    except TidegateError:
        raise
    except Exception as error:  # noqa: BLE001  # the plain path goes on: deadline, drained pipes, end of the group
        child.monitored = False
        message = f"{child.job.name}: its monitor failed and is left out ({type(error).__name__}: {error})"
        child.job.observe(Note(message, "warning"))
        child.job.observe(PathTaken("process", "plain", "the monitor failed"))


class _Monitor:
    """The monitor's own loop."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self._meter = LoadMeter()
        self._alerts = Alerts()
        self._ticks: deque[Sample] = deque(maxlen=TREND_SAMPLES + 1)
        self._risk: Risk = "low"
        self._machine_bytes = psutil.virtual_memory().total

    async def run(self) -> None:
        limits = self._child.limits
        tick = limits.tick.total_seconds()
        often = self._child.cap_bytes is not None and self._child.group is None
        usual = min(tick, limits.sample_every.total_seconds()) if often else tick
        pause, next_tick, cost = min(FIRST_LOOK_SECONDS, usual), tick, 0.0
        while True:
            await anyio.sleep(pause)
            began, elapsed = time.thread_time(), self._child.elapsed
            is_tick = elapsed >= next_tick
            sample = self._look(elapsed, full=is_tick or self._child.use.last is None)
            cost, before = time.thread_time() - began, cost
            if is_tick:
                next_tick = elapsed + tick
                self._tell(sample)
            # Of two looks the cheaper counts: the first one meets every process of the host for the first time.
            pause = max(min(2 * pause, usual), min(COST_SHARE * min(cost, before), tick))

    def _look(self, elapsed: float, *, full: bool) -> Sample:
        """One sample, and the end of a tree that is at its cap. A glance takes what is not memory from the last one."""
        child, last = self._child, self._child.use.last
        if full or last is None:
            sample = child.tree.sample(elapsed, self._meter.sample())
        else:
            sample = replace(last, seconds=elapsed, memory_bytes=child.tree.memory_bytes())
        if child.group and (most := child.group.memory_bytes()) is not None:
            # Summed over processes, what they share counts twice.
            sample = replace(sample, memory_bytes=min(sample.memory_bytes, most))
        child.use.add(sample)
        if _is_over_cap(child, sample):
            child.kill()  # it is given no time: it would go on growing
            note_peak(child)
            raise memory_failure(child, None)
        return sample

    def _tell(self, sample: Sample) -> None:
        """At every tick: alerts, risk, and what it uses now."""
        child, job = self._child, self._child.job
        self._ticks.append(sample)
        limits = Limits(self._machine_bytes, child.cap_bytes, child.deadline)
        for alert in self._alerts.look(tuple(self._ticks), limits):
            child.use.add_alert(alert.text)
            job.observe(Note(f"{job.name}: {alert.text}", alert.level))
        risk = risk_level(
            elapsed=sample.seconds,
            deadline=child.deadline,
            idle=child.progress.idle_seconds(job.clock()),
            stall=child.limits.stall_timeout.total_seconds(),
        )
        if rises_to_tell(self._risk, risk):
            job.observe(Note(f"{job.name}: the risk that a limit ends it is {risk}", "warning"))
        self._risk = risk
        job.observe(
            Strain(
                stage=job.stage,
                tool=job.name,
                memory_bytes=sample.memory_bytes,
                cpu_percent=sample.cpu_percent,
                elapsed_seconds=sample.seconds,
                deadline_seconds=child.deadline,
                risk=risk,
                memory_cap_bytes=child.cap_bytes,
            )
        )


def _is_over_cap(child: Child, sample: Sample) -> bool:
    if child.group:
        return child.group.was_exhausted()
    return sample.memory_bytes > (child.cap_bytes or sample.memory_bytes)
