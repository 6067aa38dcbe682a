"""A bound on log lines: the lines past the bound are counted, and one line tells the count."""

import asyncio
from collections.abc import Callable

WINDOW_S = 1.0


class LineBudget:
    """A number of lines and bytes per second. `tell` gets the number of lines left out, once per window."""

    def __init__(self, *, lines: int, size: int, tell: Callable[[int], None]) -> None:
        self._lines = lines
        self._size = size
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self._ends = 0.0
        self._lines_left = 0
        self._size_left = 0
        self._left_out = 0
        self._timer: asyncio.TimerHandle | None = None

    def admits(self, size: int) -> bool:
        """Decides if a line of `size` bytes may be written, and counts a line that may not."""
        now = self._loop.time()
        if now >= self._ends:
            self.tell()
            self._ends, self._lines_left, self._size_left = now + WINDOW_S, self._lines, self._size
        if self._lines_left and self._size_left > 0:
            self._lines_left -= 1
            self._size_left -= size
            return True
        if self._timer is None:
            self._timer = self._loop.call_at(self._ends, self.tell)
        self._left_out += 1
        return False

    @property
    def is_spent(self) -> bool:
        """True while lines are being left out."""
        return self._timer is not None

    def tell(self) -> None:
        """Tells now how many lines were left out, if any."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        left_out, self._left_out = self._left_out, 0
        if left_out:
            self._tell(left_out)
