"""The service's end of a worker's output pipe: reads records and bounds what reaches the log."""

import asyncio
import os
from collections.abc import Callable

import msgspec

from common.log_budget import LineBudget
from poolshift.worker.framing import MALFORMED
from poolshift.worker.stdio import MAX_LINE_BYTES, RECORD_SEPARATOR, Record

MAX_LINES_PER_S = 100
MAX_BYTES_PER_S = 64 * 1024
"""The share of one worker in the log; the rest is read and counted."""

_READ_BYTES = 64 * 1024
_SPENT_PAUSE_S = 0.01
"""A worker that has spent this is read so much more slowly: whoever prints without end holds up itself alone."""


class OutputReader:
    """Reads one worker's pipe on the event loop and hands on each record (the parent's side)."""

    def __init__(
        self, fd: int, take: Callable[[Record], None], left_out: Callable[[int], None], on_end: Callable[[], None]
    ) -> None:
        """Takes over `fd`, which is closed if this raises.

        `left_out` gets the number of records that were too many to be taken, at most once a second. `on_end` is called
        when nobody can write to the pipe any more.
        """
        self._fd = fd
        self._take = take
        self._on_end = on_end
        self._pending = b""
        self._budget = LineBudget(lines=MAX_LINES_PER_S, size=MAX_BYTES_PER_S, tell=left_out)
        self._pause: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        try:
            os.set_blocking(fd, False)
            self._loop.add_reader(fd, self._readable)
        except BaseException:
            os.close(fd)
            raise

    def close(self) -> None:
        """Reads what is still there and lets go of the pipe."""
        try:
            if self._fd >= 0:
                self._readable()
        finally:
            if self._fd >= 0:
                self._release()
            self._budget.tell()

    def admits(self, size: int) -> bool:
        """Decides if another line of `size` characters about this worker may be logged, and counts one that may not."""
        return self._budget.admits(size)

    def _readable(self) -> None:
        try:
            data = os.read(self._fd, _READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self._release()
            self._on_end()
            return
        *lines, self._pending = (self._pending + data).split(b"\n")
        if len(self._pending) > MAX_LINE_BYTES:
            lines, self._pending = [*lines, self._pending], b""
        for line in lines:
            if line and self._budget.admits(len(line)):
                self._take(_parse(line))
        if self._budget.is_spent and self._pause is None:
            self._loop.remove_reader(self._fd)
            self._pause = self._loop.call_later(_SPENT_PAUSE_S, self._resume)

    def _resume(self) -> None:
        self._pause = None
        try:
            self._loop.add_reader(self._fd, self._readable)
        except OSError:
            self._release()  # its worker blocks in no write: it gets SIGPIPE, or EPIPE

    def _release(self) -> None:
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        fd, self._fd = self._fd, -1
        try:
            self._loop.remove_reader(fd)
        finally:
            os.close(fd)


def _parse(line: bytes) -> Record:
    if line.startswith(RECORD_SEPARATOR):
        try:
            return msgspec.json.decode(line[1:], type=Record)
        except MALFORMED:
            pass  # a program wrote the separator itself: its line is taken as it is
    return Record(line[:MAX_LINE_BYTES].decode(errors="replace"), "output")
