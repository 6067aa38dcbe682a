"""What a worker prints and logs, on its way to the service's log: never on the socket that carries the replies.

Both ends of one pipe. A line that starts with the record separator (RFC 7464) is a JSON `Record`; any other line was
written past Python (by C code, or by a dying interpreter) and is taken as it is.
"""

import asyncio
import codecs
import io
import logging
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from pools.framing import MALFORMED
from pools.line_budget import LineBudget
from pools.sendable import sendable
from pools.trace_context import trace_id_of

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

RECORD_SEPARATOR = b"\x1e"
MAX_LINE_BYTES = 16 * 1024
"""A longer line is cut here, so that a program cannot fill the service's memory with one line."""

MAX_LINES_PER_S = 100
MAX_BYTES_PER_S = 64 * 1024
"""What one worker gets into the log; the rest is read and counted."""

_MAX_NAME_LENGTH = 256
_READ_BYTES = 64 * 1024
_SPENT_PAUSE_S = 0.01
"""A worker that has spent this is read so much more slowly: whoever prints without end holds up itself alone."""
_encoder = msgspec.json.Encoder()


class Record(msgspec.Struct, omit_defaults=True):
    """One line with what it came from. `level` is a `logging` level; `source` a logger's name, `stdout` or `stderr`."""

    text: str
    source: str
    level: int = logging.INFO
    execution_id: str | None = None
    program_id: str | None = None
    trace_id: str | None = None


class CurrentExecution:
    """Which execution this worker is at, for whatever is printed meanwhile."""

    def __init__(self) -> None:
        self.execution_id: str | None = None
        self.program_id: str | None = None
        self.trace_id: str | None = None

    def enter(self, execution_id: str, program_id: str, traceparent: str | None) -> None:
        self.execution_id, self.program_id, self.trace_id = execution_id, program_id, trace_id_of(traceparent)

    def leave(self) -> None:
        self.execution_id = self.program_id = self.trace_id = None

    def write(self, text: str, source: str, level: int) -> None:
        """Sends one record to the parent; a record that finds the pipe's other end gone is dropped."""
        text = sendable(text, MAX_LINE_BYTES // 4)
        record = Record(text, source, level, self.execution_id, self.program_id, self.trace_id)
        try:
            os.write(2, RECORD_SEPARATOR + _encoder.encode(record) + b"\n")
        except OSError:
            pass


class _PrintStream(io.TextIOBase):
    """Stands in for `sys.stdout` and `sys.stderr`: whole lines become records."""

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, current: CurrentExecution, source: str, fd: int) -> None:
        self._current = current
        self._source = source
        self._fd = fd
        self._pending = ""
        self.buffer = _PrintBytes(self)

    def fileno(self) -> int:
        """What is written there arrives too, as if it were written past Python."""
        return self._fd

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *lines, self._pending = (self._pending + text).split("\n")
        if len(self._pending) > MAX_LINE_BYTES:
            lines, self._pending = [*lines, self._pending], ""
        for line in lines:
            self._current.write(line, self._source, logging.INFO)
        return len(text)

    def flush(self) -> None:
        if self._pending:
            self._current.write(self._pending, self._source, logging.INFO)
            self._pending = ""


class _PrintBytes(io.BufferedIOBase):
    """Stands in for `sys.stdout.buffer`: its bytes go the way of the text."""

    def __init__(self, stream: _PrintStream) -> None:
        self._stream = stream
        self._decode = codecs.getincrementaldecoder(stream.encoding)(stream.errors).decode

    def writable(self) -> bool:
        return True

    def write(self, data: "ReadableBuffer") -> int:
        written = bytes(data)
        self._stream.write(self._decode(written))
        return len(written)

    def flush(self) -> None:
        self._stream.flush()


class _RecordHandler(logging.Handler):
    """Hands on what programs log with `logging`."""

    def __init__(self, current: CurrentExecution) -> None:
        super().__init__()
        self._current = current

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._current.write(self.format(record), sendable(record.name, _MAX_NAME_LENGTH), record.levelno)
        except Exception:
            self.handleError(record)  # as every handler does: a record with a fault is no error of the program's


def tell_parent(current: CurrentExecution) -> None:
    """Sends what this process prints and logs from now on to its parent (the child's side)."""
    sys.stdout = _PrintStream(current, "stdout", 1)
    sys.stderr = _PrintStream(current, "stderr", 2)
    logging.basicConfig(handlers=[_RecordHandler(current)], format="%(message)s", level=logging.INFO, force=True)


class OutputReader:
    """Reads one worker's pipe on the event loop and hands on each record (the parent's side)."""

    def __init__(self, fd: int, take: Callable[[Record], None], left_out: Callable[[int], None]) -> None:
        """`left_out` gets the number of records that were too many to be taken, at most once a second."""
        self._fd = fd
        self._take = take
        self._pending = b""
        self._budget = LineBudget(lines=MAX_LINES_PER_S, size=MAX_BYTES_PER_S, tell=left_out)
        self._pause: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        os.set_blocking(fd, False)
        self._loop.add_reader(fd, self._readable)

    def close(self) -> None:
        """Reads what is still there and lets go of the pipe."""
        if self._fd >= 0:
            self._readable()
        if self._fd >= 0:
            self._release()
        self._budget.tell()

    def admits(self, size: int) -> bool:
        """Whether another line about this worker, of `size` characters, may be logged; one that may not is counted."""
        return self._budget.admits(size)

    def _readable(self) -> None:
        try:
            data = os.read(self._fd, _READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            self._release()
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
        self._loop.add_reader(self._fd, self._readable)

    def _release(self) -> None:
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        self._loop.remove_reader(self._fd)
        os.close(self._fd)
        self._fd = -1


def _parse(line: bytes) -> Record:
    if line.startswith(RECORD_SEPARATOR):
        try:
            return msgspec.json.decode(line[1:], type=Record)
        except MALFORMED:
            pass  # a program wrote the separator itself: its line is taken as it is
    return Record(line[:MAX_LINE_BYTES].decode(errors="replace"), "output")
