"""How many log lines someone may write: past that they are counted, and the count is told in one line."""

import asyncio
from collections.abc import Callable

WINDOW_S = 1.0


class LineBudget:
    """So many lines and bytes a second. `tell` gets the number of lines that were left out, once a window."""

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
        """Whether a line of `size` bytes may be written; one that may not is counted."""
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
        """Whether lines are being left out at the moment."""
        return self._timer is not None

    def tell(self) -> None:
        """Says now what was left out, if anything was."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        left_out, self._left_out = self._left_out, 0
        if left_out:
            self._tell(left_out)
