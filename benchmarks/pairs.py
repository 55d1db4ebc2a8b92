"""Pairs of measurements, taken in turn (A B A B …), so that a machine whose speed drifts does not favour one side."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """One run: seconds of time, and of processor time including ended children."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class Pairs:
    """What two ways of doing a thing cost."""

    name: str
    ours: tuple[Cost, ...]
    peer: tuple[Cost, ...]
    goal: float
    """The highest acceptable median ratio of wall time."""
    cpu_goal: float | None = None
    """The same of processor time; None where it is only reported."""

    def ratio(self, measure: str) -> float:
        """Median of the pairwise ratios ours ÷ peer."""
        pairs = zip(self.ours, self.peer, strict=True)
        return statistics.median(getattr(mine, measure) / getattr(theirs, measure) for mine, theirs in pairs)

    def row(self) -> str:
        """A row of the table that `HEADER` begins."""
        ours, peer = _median(self.ours), _median(self.peer)
        goal = f"{self.goal:.2f}" + (f", CPU {self.cpu_goal:.2f}" if self.cpu_goal is not None else "")
        return (
            f"| {self.name} | {ours:.2f} s | {peer:.2f} s | {self.ratio('wall'):.2f} | {self.ratio('cpu'):.2f} "
            f"| {goal} | {'yes' if self.met else 'NO'} | {len(self.ours)} |"
        )

    @property
    def met(self) -> bool:
        quick = self.ratio("wall") <= self.goal
        return quick and (self.cpu_goal is None or self.ratio("cpu") <= self.cpu_goal)


HEADER = (
    "| what | ours (wall, median) | peer | ratio wall | ratio CPU | goal | met | pairs |\n"
    "|---|---|---|---|---|---|---|---|"
)


def measure(
    name: str,
    ours: Callable[[], object],
    peer: Callable[[], object],
    *,
    goal: float,
    pairs: int,
    warm_up: int = 1,
    cpu_goal: float | None = None,
    prepare: Callable[[], object] = lambda: None,
) -> Pairs:
    """Run both in turn; warm-up runs are not counted. Which of the two begins changes from pair to pair.

    `prepare` is called before each run, outside of what is measured.
    """
    for _ in range(warm_up):
        for work in (ours, peer):
            prepare()
            work()
    mine: list[Cost] = []
    theirs: list[Cost] = []
    for number in range(pairs):
        sides = [(ours, mine), (peer, theirs)]
        for work, costs in sides if number % 2 == 0 else reversed(sides):
            prepare()
            costs.append(_cost(work))
    return Pairs(name, tuple(mine), tuple(theirs), goal, cpu_goal)


def _cost(work: Callable[[], object]) -> Cost:
    before, started = os.times(), time.perf_counter()
    work()
    after = os.times()
    return Cost(time.perf_counter() - started, sum(after[:4]) - sum(before[:4]))


def _median(costs: tuple[Cost, ...]) -> float:
    return statistics.median(cost.wall for cost in costs)
