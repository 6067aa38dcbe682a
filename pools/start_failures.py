"""Log lines about workers that cannot start: one for all workers of a pool, with their number."""

import asyncio
from collections import Counter
from typing import Final

import structlog

GATHER_S: Final = 0.1
"""Time for which a failure waits for those of the other workers, which mostly fail at once and alike."""
INTERVAL_S: Final = 1.0
"""The least time between two lines, in seconds."""

_log = structlog.stdlib.get_logger("poolshift.pools")


class StartFailures:
    """The failed starts of one pool that no line has told yet."""

    def __init__(self, version: str) -> None:
        self._version = version
        self._reasons: Counter[str] = Counter()
        self._next_line = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    def add(self, reason: str) -> None:
        """Counts a failed start."""
        self._reasons[reason] += 1
        if self._timer is None:
            self._timer = self._loop.call_at(max(self._loop.time() + GATHER_S, self._next_line), self.tell)

    def tell(self) -> None:
        """Logs now what has not been told, with the most frequent reason."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._reasons:
            self._next_line = self._loop.time() + INTERVAL_S
            (reason, _), *others = self._reasons.most_common()
            more = {"other_reasons": len(others)} if others else {}
            count = self._reasons.total()
            _log.error("worker could not be started", pool_version=self._version, count=count, reason=reason, **more)
            self._reasons.clear()
