"""A client's connection, in the two kinds of process that can have it: a front, and the service itself.

A front reads and answers plain execute calls. All else it hands to the service, connection and all. The service hands
the connection back once it has answered.
"""

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Any, Final

import msgspec
from uvicorn.config import Config

from app.execute import reader as requests
from app.execute import server_span
from app.execute.call_head import NO_CALL, CallHead
from app.execute.connections import Connections
from app.execute.exchange import ConnectionExchange, Endpoint, Exchange
from app.execute.protocol import LaneProtocol
from app.execute.response import CLOSE
from app.execute.uvicorn_adapter import STATUS_LINE, ServerState
from app.fronts.direct import DirectCalls
from app.fronts.direct_call import DirectCall
from app.fronts.frames import (
    CALL,
    FAILED,
    LENGTH_BYTES,
    MAY_BE_GRANTED,
    OPENING,
    STAYS,
    FrameStream,
)
from app.fronts.granted import Granted

_FIRST_LOOK_S: Final = 0.005
_MAX_LOOK_S: Final = 0.5
"""Time between two looks if the client has read all that was written before its connection moves."""

MAX_GRANTS: Final = 10_000
"""Grants that a front keeps; beyond, it drops them all."""
_TELLING: Final = frozenset({b"authorization", b"host", b"origin", b"sec-fetch-site", b"x-api-key"})
"""Headers that decide who calls, and if he may (`app.access.auth`, `app.access.hosts`)."""
_SERVICES_OWN: Final = frozenset(
    {
        b"idempotency-key",
        b"prefer",
        b"x-pool-version",
        b"x-poolshift-synthetic",
    }
)
"""Headers with which a call is more than a plain one."""
_OF_TRACES: Final = frozenset({b"baggage", b"traceparent", b"tracestate"})

Key = tuple[bytes, ...]
"""The path of a call, and each of the headers that decide who calls."""
Grants = dict[Key, Granted]

_encode_head: Final = msgspec.msgpack.Encoder().encode


class RemoteExchange(ConnectionExchange):
    """The calls of one of a front's connections, one at a time, which the front or the service runs."""

    def __init__(self, connection: "FrontConnection", server: ServerState, tasks: "set[asyncio.Task[None]]") -> None:
        super().__init__(NO_CALL, None, server, tasks, connection.answer_here)
        self._connection = connection

    def begin(self, body: bytes, endpoint: Endpoint, loop: asyncio.AbstractEventLoop, *, at_once: bool) -> None:
        """Runs the call in the front, or sends it to the service."""
        self._connection.begin_call(body)

    def client_gone(self) -> None:
        """Ends a call that the front runs. The service learns of the others by the connection's own end."""
        self._connection.abandon_call()


class AsksService:
    """The endpoint as a front knows it: it refuses nobody, and tells the service of a call whose body is late."""

    async def serve(self, exchange: Exchange) -> None:
        """Never called: a `RemoteExchange` goes to the service."""
        raise NotImplementedError

    def begin(self, exchange: Exchange) -> bool:
        """Never called: a `RemoteExchange` goes to the service."""
        raise NotImplementedError

    def admits(self, exchange: Exchange) -> bool:
        assert isinstance(exchange, RemoteExchange)
        exchange._connection.send_call(OPENING, 0, b"")
        return True


def key_of(head: CallHead) -> Key | None:
    """The part of a head that a grant is for; None if something in the head is for the service alone."""
    key = [head.path.encode()]
    for name, value in head.lines:
        if name in _SERVICES_OWN:
            return None
        if name in _TELLING:
            key.append(name)
            key.append(value)
    return tuple(key)


class FrontConnection(LaneProtocol):
    """A connection that a front has."""

    def __init__(
        self,
        connections: Connections,
        config: Config,
        server_state: ServerState,
        link: FrameStream,
        direct: DirectCalls,
        grants: Grants,
        number: int,
        move: "Callable[[FrontConnection, bytes], None]",
        lost: Callable[[int], None],
    ) -> None:
        """Takes what is called at the connection's end, `lost`, and for a request that the service answers, `move`.

        `move` is called with the connection and with all that was read of it.
        """
        super().__init__(connections, config, server_state, {})
        self.number = number
        self._link = link
        self._move = move
        self._lost = lost
        self._direct = direct
        self._grants = grants
        self._remote: RemoteExchange | None = None
        self._call: DirectCall | None = None
        """The call that the front runs."""
        self._key: Key | None = None
        self._has_trace = False
        """Set if the last head has headers that concern traces."""
        self._granted: Granted | None = None
        """The grant for the last head, if there is one."""
        self._known_head: CallHead | None = None
        """The head that `_key` and `_granted` are of."""
        self._sent_head: CallHead | None = None
        """The head of the last call that the service was sent, which it has kept."""

    def connection_lost(self, error: Exception | None) -> None:
        """Forgets the client: it has gone, or the service has its connection."""
        super().connection_lost(error)
        self._exchange = self._arriving = self._remote = None  # each would hold this connection, which holds it
        self._lost(self.number)

    def begin_call(self, body: bytes) -> None:
        """Runs the call here, if the service has granted that, or sends it to the service."""
        head, flags = self._reader.call, 0
        if head is not self._known_head:
            self._known_head = head
            self._key = key_of(head)
            self._has_trace = any(name in _OF_TRACES for name, _ in head.lines)
            self._granted = None if self._key is None else self._grants.get(self._key)
        granted = self._granted
        if granted is not None and granted.epoch == self._direct.epoch:
            traced = granted.head(head.headers if self._has_trace else None)
            self._call = self._direct.begin(granted, self, body, traced)
            if self._call is not None:
                return
        elif self._key is not None:
            flags = MAY_BE_GRANTED
        self.send_call(CALL, flags, body)

    def abandon_call(self) -> None:
        """Ends the call that the front runs, if there is one."""
        call, self._call = self._call, None
        if call is not None:
            self._direct.abandon(call)

    def grant(self, granted: Granted) -> None:
        """Keeps the service's grant for calls with the head of the last one."""
        if self._key is not None:
            self._granted = granted
            if len(self._grants) >= MAX_GRANTS:
                self._grants.clear()
            self._grants[self._key] = granted

    def span_attributes(self, call: DirectCall) -> dict[str, str | int]:
        """Returns the attributes of the server's span of a sampled call."""
        exchange = Exchange(self._reader.call, self._address, "http")
        exchange.execution_id, exchange.program = call.execution_id, call.program
        return server_span.attributes(exchange)

    def answer_result(self, lines: bytes, body: bytes) -> None:
        """Answers the call that the front has run."""
        self._call = None
        exchange = self._exchange
        if exchange is not None:
            close = b"" if exchange.keep_alive else CLOSE
            parts = (STATUS_LINE[200], self._link.server_lines, lines, close, b"\r\n", body)
            self._answer(b"".join(parts), ())

    def send_failed(self, failure: bytes, body: bytes) -> None:
        """Has the service end the call that the front has begun."""
        self._call = None
        if self._exchange is not None:
            self.send_call(FAILED, 0, len(failure).to_bytes(LENGTH_BYTES, "little") + failure + body)

    def send_call(self, kind: int, flags: int, body: bytes) -> None:
        """Sends a call, or its beginning, to the service; with its head if that is not the one of the last call."""
        call, head = self._reader.call, b""
        if call is not self._sent_head:
            self._sent_head = call
            head = _encode_head((call.path, call.lines, self._address))
        if self._exchange is not None and self._exchange.keep_alive:
            flags |= STAYS
        self._link.send(kind, flags, self.number, head, body)

    def answer_here(self, data: bytes, _: Any = ()) -> None:
        """Writes an answer to the client."""
        if self._exchange is not None:
            self._answer(data, ())

    def answered(self, data: bytes, *, stays: bool) -> None:
        """Writes the service's answer to the client."""
        if self._exchange is not None:
            self._exchange.keep_alive = stays
            self._answer(data, ())

    def refused(self) -> None:
        """The service would answer the call before its body is here."""
        if self._reader.is_in_call:
            self._begin_move(self._reader.held)

    def detach(self) -> "socket.socket | None":
        """Detaches the connection, which ends here; None while the client has not read all, or if it has gone."""
        assert self._transport is not None
        return detached(self._transport)

    def _new_exchange(self) -> ConnectionExchange:
        if self._remote is None:
            self._remote = RemoteExchange(self, self._server, self._tasks)
        self._remote.keep_alive = True
        return self._remote

    def _take(self, data: bytes) -> None:
        reader = self._reader
        read = reader.held + data if reader.is_waiting else data
        kind = reader.take(data)
        if kind == requests.CALL:
            self._begin()
        elif kind == requests.UNFINISHED:
            self._wait()
        else:
            self._begin_move(read)

    def _begin_move(self, read: bytes) -> None:
        assert self._transport is not None
        self._transport.pause_reading()
        self._reader.close()
        self._arriving = None
        if self._is_unfinished:
            self._is_finished()
        self._early += read  # until it is moved, it is a request that has begun to arrive
        if self._transport.get_write_buffer_size():
            self._connections.is_unread(self)
        self._continue_move(_FIRST_LOOK_S)

    def _continue_move(self, look_s: float) -> None:
        assert self._transport is not None
        if self._transport.is_closing():
            return
        if self._transport.get_write_buffer_size():
            self._loop.call_later(look_s, self._continue_move, min(2 * look_s, _MAX_LOOK_S))
        else:
            self._move(self, bytes(self._early))


class HomeConnection(LaneProtocol):
    """A connection that the service has, beside fronts: for one request, or for want of a front."""

    def __init__(
        self,
        connections: Connections,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        read: bytes,
        leave: "Callable[[HomeConnection], None]",
    ) -> None:
        """`read` are the bytes that a front has read. Calls `leave` each time that the connection may go to a front."""
        super().__init__(connections, config, server_state, app_state)
        self._read = read
        self._leave = leave

    def connection_made(self, transport: asyncio.Transport) -> None:
        """The connection is here, and what was read of it comes before all that is read from now on."""
        super().connection_made(transport)
        read, self._read = self._read, b""
        if read:
            self.data_received(read)

    def detach(self) -> "socket.socket | None":
        """Detaches the connection, which ends here; None if it is not idle, or if it has gone."""
        if (
            self._transport is None
            or self._exchange is not None
            or self._is_uvicorns
            or self._is_lingering
            or self._is_ending
            or self._early
            or self._reader.is_waiting
            or self._client_is_slow
        ):
            return None
        return detached(self._transport)

    def _next(self) -> None:
        super()._next()
        if self._exchange is None and not self._is_uvicorns and not self._is_ending:
            self._loop.call_soon(self._offer)  # what was written leaves at the end of this turn

    def _offer(self) -> None:
        self._leave(self)


def detached(transport: asyncio.Transport) -> "socket.socket | None":
    """The connection of a transport, which ends; None, and the transport as it was, if it has something to write."""
    if transport.is_closing() or transport.get_write_buffer_size():
        return None
    transport.pause_reading()
    try:
        fd = os.dup(transport.get_extra_info("socket").fileno())
    except OSError:  # no descriptor is left
        transport.resume_reading()
        return None
    transport.abort()  # of this process's end alone
    return socket.socket(fileno=fd)
