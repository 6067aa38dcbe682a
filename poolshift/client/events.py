"""The events of a stream, read from their bytes as they come (server-sent events)."""

from collections.abc import Iterator
from typing import Any

import msgspec

from poolshift.client.errors import AnswerLost, JobCancelled, JobInterrupted, UnexpectedAnswer
from poolshift.client.executions import Execution
from poolshift.client.problems import read_problem


class Progress(msgspec.Struct, frozen=True):
    """A value that the program has yielded."""

    data: Any


class OutputChunk(msgspec.Struct, frozen=True):
    """The next piece of the text of an output."""

    field: str
    chunk: str


class StatusChange(msgspec.Struct, frozen=True):
    """A worker has taken a job; if its program is run again, all events come again."""

    status: str


class Gap(msgspec.Struct, frozen=True):
    """Events of a job that are no longer kept; None is an unknown number."""

    missed: int | None = None


Event = Progress | OutputChunk | StatusChange | Gap | Execution
"""An event of a stream; the execution is the last one. A job alone has changes of its status, and gaps."""
_STATUS = msgspec.json.Decoder(StatusChange)
_GAP = msgspec.json.Decoder(Gap)
_WITHOUT_RESULT = {"cancelled": JobCancelled, "interrupted": JobInterrupted}
_CHUNK = msgspec.json.Decoder(OutputChunk)
_EXECUTION = msgspec.json.Decoder(Execution)


class EventReader:
    """Reads events from bytes in pieces of any size. Does no I/O."""

    def __init__(self, last_id: str | None = None) -> None:
        self._line = bytearray()
        self._kind = ""
        self._data: list[bytes] = []
        self._id = last_id
        self.last_id = last_id
        """The id of the last event, by which the service can go on after it."""
        self.execution: Execution | None = None

    def feed(self, piece: bytes) -> Iterator[Event]:
        """Yields the events that are complete with this piece; what follows the last one is left out.

        Raises:
            PoolshiftError: the program has failed, or an event is not one of Poolshift's.
        """
        *lines, rest = piece.split(b"\n")
        for line in lines:
            complete = bytes(self._line + line) if self._line else line
            self._line.clear()
            if (event := self._read_line(complete.rstrip(b"\r"))) is not None:
                yield event
        self._line += rest

    def result(self) -> Execution:
        """The execution.

        Raises:
            AnswerLost: the stream has ended before its last event.
        """
        if self.execution is None:
            raise AnswerLost("the stream ended before its last event; whether the program has run is not known")
        return self.execution

    def _read_line(self, line: bytes) -> Event | None:
        if not line:
            return self._dispatch()
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
        elif name == b"event":
            self._kind = value.decode(errors="replace")
        elif name == b"id":
            self._id = value.decode(errors="replace")
        return None

    def _dispatch(self) -> Event | None:
        kind, data, self.last_id = self._kind, b"\n".join(self._data), self._id
        self._kind = ""
        self._data.clear()
        if not data or self.execution is not None:
            return None
        try:
            return self._event(kind, data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise UnexpectedAnswer(f"the event {kind!r} is not one of this version of Poolshift: {error}") from None

    def _event(self, kind: str, data: bytes) -> Event | None:
        """Decodes an event; None if it is of a kind that this version of the client does not know."""
        if kind == "progress":
            return Progress(msgspec.json.decode(data))
        if kind == "output":
            return _CHUNK.decode(data)
        if kind == "result":
            self.execution = _EXECUTION.decode(data)
            return self.execution
        if kind == "error":
            raise read_problem(0, data) or UnexpectedAnswer("the last event is not an error of Poolshift")
        if kind in _WITHOUT_RESULT:
            raise _WITHOUT_RESULT[kind](f"the job is {kind}")
        if kind == "status":
            return _STATUS.decode(data)
        return _GAP.decode(data) if kind == "gap" else None
