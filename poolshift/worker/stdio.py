"""Carries what a worker prints and logs to the service's log: never on the pipe that carries the replies.

Both ends of one pipe. A line that starts with the record separator (RFC 7464) is a JSON `Record`; any other line was
written past Python (by C code, or by a dying interpreter) and is taken as it is.
"""

import codecs
import io
import logging
import os
import sys
from contextvars import ContextVar
from typing import TYPE_CHECKING

import msgspec

from poolshift.worker.exception_text import truncate
from poolshift.worker.tracing.traceparent import trace_id_of

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

RECORD_SEPARATOR = b"\x1e"
MAX_LINE_BYTES = 16 * 1024
"""A longer line is cut here, so that a program cannot fill the service's memory with one line."""

_MAX_NAME_LENGTH = 256
_encoder = msgspec.json.Encoder()


class Record(msgspec.Struct, omit_defaults=True):
    """One line with what it came from. `level` is a `logging` level; `source` a logger's name, `stdout` or `stderr`."""

    text: str
    source: str
    level: int = logging.INFO
    execution_id: str | None = None
    program_id: str | None = None
    trace_id: str | None = None


class Execution:
    """The ids of one execution, and the lines that it has begun to print, by their stream."""

    __slots__ = ("execution_id", "pending", "program_id", "trace_id")

    def __init__(
        self, execution_id: str | None = None, program_id: str | None = None, traceparent: str | None = None
    ) -> None:
        self.execution_id = execution_id
        self.program_id = program_id
        self.trace_id = trace_id_of(traceparent)
        self.pending: dict[str, str] = {}


class CurrentExecution:
    """The execution that is running here, for the records of whatever is printed meanwhile.

    In a worker that runs many at once that is the one of the present task; threads without a task of their own print
    as nobody's.
    """

    def __init__(self) -> None:
        self._of_process = Execution()
        self._of_task: ContextVar[Execution | None] = ContextVar("poolshift_execution", default=None)

    @property
    def now(self) -> Execution:
        """The execution of the present task, else that of the process."""
        return self._of_task.get() or self._of_process

    def enter(self, execution_id: str, program_id: str, traceparent: str | None) -> None:
        """Notes the only execution of this process."""
        self._of_process = Execution(execution_id, program_id, traceparent)

    def enter_task(self, execution_id: str, program_id: str, traceparent: str | None) -> None:
        """Notes the execution of the present task, and of all that it starts."""
        self._of_task.set(Execution(execution_id, program_id, traceparent))

    def leave(self, program_id: str | None = None) -> None:
        """Notes that the present execution has ended; `program_id` is the program whose own code runs on."""
        now = self.now
        for source, rest in now.pending.items():
            self.write(rest, source, logging.INFO)
        now.pending.clear()
        if now is self._of_process:
            self._of_process = Execution(program_id=program_id)

    def write(self, text: str, source: str, level: int) -> None:
        """Sends one record to the parent; a record that finds the pipe's other end gone is dropped."""
        text = truncate(text, MAX_LINE_BYTES // 4)
        now = self.now
        record = Record(text, source, level, now.execution_id, now.program_id, now.trace_id)
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
        self.buffer = _PrintBytes(self)

    def fileno(self) -> int:
        """The file descriptor of the pipe; text written to it arrives too, as if written past Python."""
        return self._fd

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        pending = self._current.now.pending
        *lines, rest = (pending.pop(self._source, "") + text).split("\n")
        if len(rest) > MAX_LINE_BYTES:
            lines, rest = [*lines, rest], ""
        if rest:
            pending[self._source] = rest
        for line in lines:
            self._current.write(line, self._source, logging.INFO)
        return len(text)

    def flush(self) -> None:
        if rest := self._current.now.pending.pop(self._source, ""):
            self._current.write(rest, self._source, logging.INFO)


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
            self._current.write(self.format(record), truncate(record.name, _MAX_NAME_LENGTH), record.levelno)
        except Exception:
            self.handleError(record)  # as every handler does: a record with a fault is no error of the program's


def tell_parent(current: CurrentExecution) -> None:
    """Sends what this process prints and logs from now on to its parent (the child's side)."""
    sys.stdout = _PrintStream(current, "stdout", 1)
    sys.stderr = _PrintStream(current, "stderr", 2)
    logging.basicConfig(handlers=[_RecordHandler(current)], format="%(message)s", level=logging.INFO, force=True)
