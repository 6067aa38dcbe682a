"""Frames on the stream between the service and a front: a head of fixed size, then two parts of any size."""

import asyncio
import struct
from typing import Final, cast

CALL: Final = 1
"""A front's plain call: the first part is the request's head if the connection's last call had another, or empty."""
OPENING: Final = 2
"""A front has the head of a call, the first part, and awaits its body."""
GONE: Final = 3
"""A front has a connection no more."""
ALIVE: Final = 4
"""A front serves. It says so at its start, and again each time that it is asked."""
ANSWER: Final = 5
"""The service's answer to a connection's call: the second part is all that the client gets."""
REFUSED: Final = 6
"""The service would answer the call of an `OPENING` before its body: the front hands the connection over."""
ENDING: Final = 7
"""The service ends: connections close once what has begun to arrive on them is answered."""
ASKED: Final = 8
"""The service asks for an `ALIVE`."""
DEFINITION: Final = 9
"""A definition, as JSON; `connection` is the number by which loans and grants will name it."""
LENT: Final = 10
"""The service lends a worker (`Loan`), whose descriptors come by the handover."""
RECALLED: Final = 11
"""The service wants the worker of a lease back, once its call has ended."""
DEATH: Final = 12
"""A worker on loan is dead (`Death`)."""
GATE_CLOSED: Final = 13
"""Another epoch has begun: calls that wait at the front go to the service."""
WITHDRAWN: Final = 14
"""The running calls of idempotent programs go to the service, and their workers are killed."""
WANTED: Final = 15
"""A front has calls, and no worker for them."""
RETURNED: Final = 16
"""A front gives a worker back (`Loan`)."""
KILL: Final = 17
"""A front wants a worker dead (`Killed`)."""
RAN: Final = 18
"""Calls that a front has answered (a list of `Ran`)."""
FAILED: Final = 19
"""A call that a front could not end: as a `CALL`, with a `Failure` before the body, and its length before that."""
STATE_ASKED: Final = 20
"""The service wants to know all that a front has to tell; `connection` is the number of the question."""
STATE: Final = 21
"""The answer to `STATE_ASKED` (`State`)."""

LENGTH_BYTES: Final = 4
"""The bytes of the length of a `Failure`."""

SPANS: Final = 22
"""Finished spans of calls that a front has run, as JSON; `connection` is the number of those that were lost."""

STAYS: Final = 1
"""The flag of a call, or an answer, after which the connection stays open."""
MAY_BE_GRANTED: Final = 2
"""The flag of a call whose head has nothing in it that only the service understands."""

PAID: Final = 1
"""The flag of a `RETURNED` that answers a `RECALLED` of any lease."""

ANY_LEASE: Final = 2**32 - 1
"""In a `RECALLED`: whichever worker is idle first."""

_HEAD: Final = struct.Struct("<BBIII")
_HEAD_BYTES: Final = _HEAD.size


class FrameStream:
    """One end of the stream, as an asyncio protocol."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._unsent: list[bytes] = []
        """All that is sent in one turn of the event loop: it leaves at once, by one system call."""
        self._parts: list[bytes] = []
        """A frame that is not whole."""
        self.server_lines = b""
        """The lines of the headers that the server puts on every answer."""
        self._held = 0
        self._wanted = 0

    def frame_received(self, kind: int, flags: int, connection: int, first: bytes, second: bytes) -> None:
        """Handles a frame that has arrived."""
        raise NotImplementedError

    def send(self, kind: int, flags: int, connection: int, first: bytes = b"", second: bytes = b"") -> None:
        """Sends a frame soon; it does nothing if the other side has gone."""
        if not self._unsent:
            self.loop.call_soon(self._flush)
        self._unsent.append(_HEAD.pack(kind, flags, connection, len(first), len(second)) + first + second)

    def close(self) -> None:
        """Ends the stream."""
        if self._transport is not None:
            self._transport.abort()

    def _flush(self) -> None:
        unsent, self._unsent = self._unsent, []
        if self._transport is not None:
            self._transport.writelines(unsent)

    # --- what the transport tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Takes the transport of the open stream."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, error: Exception | None) -> None:
        """Drops the transport: the other side has gone."""
        self._transport = None

    def eof_received(self) -> None:
        """The other side sends no more: by the default of asyncio the transport closes."""

    def pause_writing(self) -> None:
        """Waits for nothing: each connection has one call at a time, which bounds what waits here."""

    def resume_writing(self) -> None:
        """See `pause_writing`."""

    def data_received(self, data: bytes) -> None:
        """Takes the frames out of bytes that have arrived."""
        if self._parts:
            self._parts.append(data)
            self._held += len(data)
            if self._held < self._wanted:
                return
            data = b"".join(self._parts)
            self._parts = []
        at, size, wanted = 0, len(data), _HEAD_BYTES
        while size - at >= _HEAD_BYTES:
            kind, flags, connection, first, second = _HEAD.unpack_from(data, at)
            begin: int = at + _HEAD_BYTES
            middle: int = begin + first
            end: int = middle + second
            if end > size:
                wanted = end - at
                break
            self.frame_received(kind, flags, connection, data[begin:middle], data[middle:end])
            at = end
        if at < size:
            self._parts, self._held, self._wanted = [data[at:]], size - at, wanted
