"""How many connections one source is worth: more as long as each makes the whole faster. Pure; the clock is passed in.

The watch of a try asks it now and then; `Transfer` keeps one over all its tries. Nothing of it outlives the process.
"""

from __future__ import annotations

from dataclasses import dataclass

from tidegate.transfer.file.pieces import LEAST_PIECE_BYTES, MIB


@dataclass
class ConnectionTuner:
    """How many connections? More as long as the last ones made the whole noticeably faster.

    Against a limit per connection or a long way, each brings its own share, and as many again are tried; where the line
    is the limit, none does, and the origin is spared. Where the processor or the disk is, none is tried: a connection
    that hardly ever waits for bytes has all that it can take.
    """

    most: int
    settle_seconds: float = 0.15
    """How long the speed after a change is not looked at."""
    measure_seconds: float = 0.25
    worth_seconds: float = 1.5
    """How long the rest must take for another connection to be worth it."""
    share: float = 0.4
    """What part of equal shares the last ones must have brought."""
    fast: float = 200.0 * MIB
    """Bytes per second of a connection that nobody limits: others beside it only cost processor time."""
    waiting: float = 0.5
    """What part of its time a connection must have waited for bytes."""
    rest_seconds: float = 10.0
    """How long it is left at that when they did not; doubled each time."""
    _connections: int = 1
    _changed_at: float | None = None
    _mark: tuple[float, int, float] | None = None
    _before: tuple[int, float] | None = None
    """Connections and speed before the last ones were added."""
    _resting_until: float = 0.0

    def advise(self, now: float, received: int, waited: float, connections: int, remaining: int) -> int:
        """How many to add, or to end if negative. Called now and then while bytes come.

        `waited`: seconds that all of them have waited for bytes until now.
        """
        if self._changed_at is None or connections != self._connections:
            if connections < self._connections:
                self._before = None  # one has ended by itself: no comparison holds
            self._restart(now, connections)
            return 0
        if self._mark is None:
            if now - self._changed_at >= self.settle_seconds:
                self._mark = now, received, waited
            return 0
        if now - self._mark[0] < self.measure_seconds:
            return 0
        seconds = now - self._mark[0]
        speed, waiting = (received - self._mark[1]) / seconds, (waited - self._mark[2]) / (seconds * connections)
        self._mark = now, received, waited
        return self._judge(now, speed, waiting, remaining)

    def step_back(self, now: float, connections: int) -> None:
        """The origin did not like the last one, or it failed: no more than there are, for a while."""
        self._rest(now)
        self._restart(now, connections)

    def _judge(self, now: float, speed: float, waiting: float, remaining: int) -> int:
        before, self._before = self._before, None
        if before is not None and before[0] < self._connections:
            added = self._connections - before[0]
            if speed < before[1] * (1 + self.share * added / before[0]):
                self._rest(now)
                return -added
        if self._connections >= self.most or now < self._resting_until or speed <= 0:
            return 0
        if speed / self._connections > self.fast or waiting < self.waiting:
            return 0
        if remaining < 2 * LEAST_PIECE_BYTES or remaining / speed < self.worth_seconds:
            return 0
        self._before = self._connections, speed
        return min(self._connections, self.most - self._connections)

    def _restart(self, now: float, connections: int) -> None:
        self._connections, self._changed_at, self._mark = connections, now, None

    def _rest(self, now: float) -> None:
        self._resting_until = now + self.rest_seconds
        self.rest_seconds *= 2
        self._before = None
