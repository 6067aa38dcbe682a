"""One timer for many deadlines, so that a call costs a comparison and no timer of its own."""

import asyncio
import math
from collections.abc import Callable

RETRY_S = 1.0
"""After a sweep that raised."""


class DeadlineTimer:
    """Rings at the earliest of the times that it was set to, or just after.

    A time is never taken back. The timer may ring for a call that is long over, and the sweep then finds nothing.
    """

    def __init__(self, sweep: Callable[[float], float]) -> None:
        """`sweep` does what is due by a time of the event loop's clock, and tells when the next is due, or infinity."""
        self._sweep = sweep
        self._loop = asyncio.get_running_loop()
        self._when = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def set(self, when: float) -> None:
        """Rings at `when` at the latest."""
        if when < self._when:
            self.cancel()
            self._when = when
            self._timer = self._loop.call_at(when, self._ring)

    def cancel(self) -> None:
        """Stops the timer until it is set again."""
        self._when = math.inf
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ring(self) -> None:
        # The loop's clock counts whole milliseconds and may be a little short of the time that was set.
        due = max(self._when, self._loop.time())
        self._when, self._timer = math.inf, None
        next_one = due + RETRY_S
        try:
            next_one = self._sweep(due)
        finally:
            self.set(next_one)
