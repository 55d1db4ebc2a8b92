"""The clocks of one try: it ends what has stalled, keeps the deadline, shows progress, and says how many connections.

`ParallelTry` runs it beside its connections. It looks at bytes and never waits for one, so that silence cannot hold it
up. It keeps nothing that a crash could lose.
"""

from __future__ import annotations

from collections.abc import Callable

import anyio

from tidegate.errors import DownloadDeadline
from tidegate.resilience.deadline import SPEED_WINDOW, DownloadSpeed, download_seconds, slower_of
from tidegate.resilience.load import LoadMeter
from tidegate.resilience.stall import SpeedWindow
from tidegate.transfer.file.connections import Connections
from tidegate.transfer.file.state import TransferState

WIDE_BYTES = 8 * 1024 * 1024
"""How much must be missing for a second connection."""
LOOK_SECONDS = 0.1
"""How often it looks whether another connection would help."""
SHOWN_SECONDS = 1.0
"""How often progress is told, at most."""


class TransferWatch:
    """Of one try. `join` starts one more connection."""

    def __init__(self, state: TransferState, connections: Connections, join: Callable[[], object]) -> None:
        self._state = state
        self._limits = state.limits
        self._connections = connections
        self._join = join
        self._load = LoadMeter()
        self._whole = SpeedWindow(self._limits.stall_timeout, self._limits.minimum_speed)
        """Of all connections together."""
        # No shorter than the stall clocks': a silence that they allow is none of the deadline's business.
        self._pace = DownloadSpeed(self._limits.minimum_speed, max(SPEED_WINDOW, self._limits.stall_timeout))

    async def run(self) -> None:
        """Until it is cancelled.

        Raises:
            DownloadDeadline: at this speed it takes longer than it may.
        """
        state, counts = self._state, self._state.counts
        tick = min(self._limits.stall_tick, self._limits.stall_timeout).total_seconds()
        shown = min(tick, SHOWN_SECONDS)
        self._whole.record(state.clock(), counts.bytes_received)
        next_tick, next_show = state.clock() + tick, state.clock() + shown
        while True:
            await anyio.sleep(min(tick, LOOK_SECONDS))
            now = state.clock()
            self._connections.measure_speeds(now)
            self._pace.record(now, counts.bytes_received, could_come=self._connections.are_waiting_for_bytes())
            if now >= next_tick:
                self._judge(now)
                next_tick = now + tick
            if now >= next_show:
                state.show_progress(self._whole.speed())
                next_show = now + shown
            self._widen(now)

    def _judge(self, now: float) -> None:
        """End what has stalled; where nothing has, see whether there is time left."""
        self._whole.record(now, self._state.counts.bytes_received)
        if not self._connections.abort_stalls():
            self._keep_the_deadline(self._pace.speed(), now)

    def _keep_the_deadline(self, pace: float | None, now: float) -> None:
        if pace is None:
            return
        counts = self._state.counts
        elapsed = now - counts.started
        limit = download_seconds(
            least=self._limits.deadline,
            elapsed=elapsed,
            remaining_bytes=self._state.bytes_left,
            speed=slower_of(pace, counts.bytes_received, elapsed),
            minimum_speed=self._limits.minimum_speed,
            load=self._load.sample(),
        )
        if limit is not None and elapsed > limit:
            raise DownloadDeadline(f"Not complete after {elapsed:.0f} s", evidence=self._state.evidence)

    def _widen(self, now: float) -> None:
        """Another connection where that helps, one less where it did not."""
        state, left, running = self._state, self._state.bytes_left, len(self._connections)
        if not self._may_widen():
            return
        counts = state.counts
        change = state.tuner.advise(now, counts.bytes_received, counts.waited_seconds, running, left or 0)
        if left is not None and left >= WIDE_BYTES:
            for _ in range(change):
                self._join()
        for _ in range(min(-change, running - 1)):
            self._connections.retire_slowest()

    def _may_widen(self) -> bool:
        source = self._state.source
        whole = self._state.until is None
        return whole and source.by_ranges and source.identity.has_validator and source.sniffed
