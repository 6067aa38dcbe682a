"""The service's end of a connection: execute calls are read and answered here, all else by uvicorn.

uvicorn's protocol takes a fifth of an execute call's time (docs/adr/0004), for what such a call never asks for.
"""

import asyncio
import contextvars
import fcntl
import termios
from typing import Any, Final

from uvicorn.config import Config

from app.execute import reader as requests
from app.execute import uvicorn_adapter
from app.execute.connections import Connection, Connections
from app.execute.exchange import Address, ConnectionExchange
from app.execute.reader import RequestReader
from app.execute.response import Rest
from app.execute.uvicorn_adapter import STATUS_LINE, ServerState, UvicornProtocol

_INT_BYTES: Final = 4
"""The size of the number that ioctl_sockios(7) writes."""
_MAX_EARLY_BYTES: Final = 64 * 1024
"""Bytes read behind a request that is not answered yet; reading on notices that the client leaves."""
_MAX_DRAIN_BYTES: Final = 256 * 1024
"""Bytes read of a body whose request is answered already, for the sake of the next request."""
_MAX_LINGER_BYTES: Final = 64 * 1024 * 1024
"""Bytes read and dropped before a connection closes whose client still sends."""
_MAX_LINGER_S: Final = 30.0


class LaneProtocol(Connection):
    """One connection, an `asyncio.Protocol` that uvicorn makes for each.

    Requests are read one at a time. A plain execute call becomes a `ConnectionExchange`, any other is handed to
    uvicorn's own protocol, and nothing of the next is looked at before the answer is written:

        a request not answered yet?   ──► what arrives waits
        uvicorn in a body?            ──► uvicorn, as far as the body goes
        a call, or a part of one?     ──► an exchange, once it is whole
        the last answer is out?       ──► dropped, within bounds, and the end
        another request?              ──► uvicorn, once its head is whole
        no HTTP?                      ──► 400, and the end
    """

    def __init__(
        self,
        connections: Connections,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__()
        self._connections = connections
        self._config = config
        self._server = server_state
        self._tasks = uvicorn_adapter.running_tasks(server_state)
        self._app_state = app_state
        self._loop = _loop or asyncio.get_running_loop()
        self._keep_alive_s = float(config.timeout_keep_alive)
        self._keep_alive_timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None
        self._address: Address | None = None
        self._reader = RequestReader()
        self._exchange: ConnectionExchange | None = None
        """The call that is being answered."""
        self._arriving: ConnectionExchange | None = None
        """The call whose body is awaited."""
        self._uvicorn: UvicornProtocol | None = None
        """There is one once it has been needed."""
        self._is_delegated = False
        """Set while uvicorn has the request that is being read or answered."""
        self._drained_bytes = 0
        """Bytes left of the body of a request that uvicorn has answered."""
        self._early = bytearray()
        """The bytes behind the request that is being answered."""
        self._held_back: tuple[bytes, Rest] | None = None
        """The answer that waits until the client reads those before."""
        self._client_is_slow = False
        """Set while the client does not read its answers."""
        self._has_read_timeout = False
        """A request has a limit of time to arrive."""
        self._is_ending = False
        """No request is taken on but those that have begun to arrive."""
        self._is_lingering = False
        """The last answer is out, and what still arrives is dropped."""
        self._lingering_bytes = 0

    # --- what the transport tells

    def connection_made(self, transport: asyncio.Transport) -> None:
        """The client is there."""
        self._transport = transport
        self._address = uvicorn_adapter.local_address(transport)
        self.waits_since = self._loop.time()
        uvicorn_adapter.opened(self._server, self)
        socket = transport.get_extra_info("socket")
        self._connections.opened(self, -1 if socket is None else socket.fileno())
        self._start_read_timeout(self._connections.limits.head_s)

    def connection_lost(self, error: Exception | None) -> None:
        """The client has gone."""
        uvicorn_adapter.shut(self._server, self)
        self._connections.lost(self)
        self._stop_timer()
        self._reader.close()
        self._early.clear()
        self._held_back = None
        if self._exchange is not None:
            self._exchange.client_gone()
        if self._uvicorn is not None:
            self._uvicorn.connection_lost(error)

    def eof_received(self) -> None:
        """The client sends no more: by the default of asyncio the transport closes."""

    def data_received(self, data: bytes) -> None:
        """Bytes have arrived."""
        if self._exchange is not None:
            self._hold(data)
        elif self._is_delegated:
            self._feed(data)
        elif self._is_lingering:
            self._drop(data)
        else:
            self._take(data)

    def pause_writing(self) -> None:
        """The client does not read its answers."""
        self._client_is_slow = True
        self._connections.start_answer_timeout(self)
        if self._uvicorn is not None:
            self._uvicorn.pause_writing()

    def resume_writing(self) -> None:
        """The client reads again."""
        self._client_is_slow = False
        self._connections.stop_answer_timeout(self)
        if self._uvicorn is not None:
            self._uvicorn.resume_writing()
        if self._held_back is not None:
            (data, rest), self._held_back = self._held_back, None
            self._answer(data, rest)

    # --- what the server tells

    def shutdown(self) -> None:
        """Closes the connection, once what has begun to arrive on it is answered."""
        self._is_ending = True
        if self._is_lingering:
            self.close()
            return
        if self._early or self._reader.is_in_call:
            return
        if self._exchange is not None:
            self._exchange.keep_alive = False
        elif self._is_delegated:
            assert self._uvicorn is not None
            self._uvicorn.shutdown()
        elif not self.has_arrivals():  # a client that has sent its next request would see a reset
            self.close()

    def drain(self) -> None:
        """Has the answer that is due say that the connection closes, unless another request has come already."""
        if self._early or self._is_lingering:
            return
        if self._exchange is not None:
            self._exchange.keep_alive = False
        elif self._is_delegated and not self._is_answered():
            assert self._uvicorn is not None
            self._uvicorn.shutdown()

    # --- what the limits ask and tell

    def awaits_client(self) -> bool:
        if self._exchange is not None or self._client_is_slow:
            return False
        return not self._is_delegated or not self._reader.is_read

    def has_arrivals(self) -> bool:
        assert self._transport is not None
        socket = self._transport.get_extra_info("socket")
        if socket is None:
            return False
        return fcntl.ioctl(socket.fileno(), termios.FIONREAD, bytes(_INT_BYTES)) != bytes(_INT_BYTES)

    def is_amid_stream(self) -> bool:
        return self._is_delegated and self._uvicorn is not None and self._uvicorn.is_amid_stream

    def unread_bytes(self) -> int:
        assert self._transport is not None
        size = self._transport.get_write_buffer_size()
        if self._held_back is not None:
            data, rest = self._held_back
            size += len(data) + sum([len(part) for part in rest])
        return size

    def time_out(self) -> None:
        if self._is_lingering:
            self.close()
        elif self._reader.is_waiting or (self._is_delegated and not self._is_answer_out()):
            self._end_with(408)
        else:
            self.close()

    def close(self) -> None:
        assert self._transport is not None
        self._transport.close()
        if self.unread_bytes():  # it stays open until they are read
            self._connections.start_answer_timeout(self)

    def abort(self) -> None:
        assert self._transport is not None
        self._transport.abort()

    # --- one request

    def _take(self, data: bytes) -> None:
        """Bytes have arrived between two requests, in a head or in a call."""
        kind = self._reader.take(data)
        if kind == requests.CALL:
            self._begin()
        elif kind == requests.UNFINISHED:
            self._wait()
        elif kind == requests.OTHER:
            self._delegate()
        elif kind == requests.OVERSIZED:
            self._end_with(431)
        else:
            self._refuse()

    def _begin(self) -> None:
        """Has the call that was read answered."""
        reader = self._reader
        if self._has_read_timeout:
            self._stop_read_timeout()
        exchange = self._exchange = self._arriving or self._new_exchange()
        self._arriving = None
        if reader.rest:
            self._hold(reader.rest)
        elif self._is_ending or self._connections.is_draining:
            exchange.keep_alive = False
        if not reader.stays:
            exchange.keep_alive = False
        exchange.begin(reader.body, self._connections.endpoint, self._loop, at_once=not reader.rest)

    def _answer(self, data: bytes, rest: Rest) -> None:
        assert self._transport is not None
        assert self._exchange is not None
        if self._client_is_slow:
            self._held_back = data, rest
            if self._early:
                self._transport.pause_reading()
            return
        exchange, self._exchange = self._exchange, None
        if rest:
            self._transport.writelines((data, *rest))
        else:
            self._transport.write(data)
        if exchange.keep_alive:
            self._next()
        else:
            self._transport.close()

    def _next(self) -> None:
        """The request has been read and answered."""
        self._is_delegated = False
        self.waits_since = self._loop.time()
        if self._early:
            contextvars.Context().run(self._take_early)  # not in that of the request which is over
        elif self._keep_alive_timer is None:
            self._keep_alive_timer = self._loop.call_later(self._keep_alive_s, self._close_if_unused)

    def _hold(self, data: bytes) -> None:
        assert self._transport is not None
        self._early += data
        if len(self._early) > _MAX_EARLY_BYTES or self._client_is_slow:
            self._transport.pause_reading()

    def _take_early(self) -> None:
        assert self._transport is not None
        data = bytes(self._early)
        self._early.clear()
        self._transport.resume_reading()
        self._take(data)
        if self._is_ending:
            self.shutdown()

    # --- a request that is not here yet

    def _wait(self) -> None:
        """A head, or a call, is not whole."""
        reader = self._reader
        if not reader.is_in_call:
            if reader.is_waiting and not self._has_read_timeout:
                self._start_read_timeout(self._connections.limits.head_s)
        elif self._arriving is None:
            self._arriving = self._new_exchange()
            if self._connections.endpoint.admits(self._arriving):
                self._start_read_timeout(self._connections.limits.body_s)
            else:
                self._arriving = None
                reader.leave()  # a stranger is answered before his body is here
                self._delegate()

    def _new_exchange(self) -> ConnectionExchange:
        return ConnectionExchange(self._reader.call, self._address, self._server, self._tasks, self._answer)

    def _start_read_timeout(self, limit_s: float) -> None:
        self._has_read_timeout = True
        self._connections.start_read_timeout(self, limit_s)

    def _stop_read_timeout(self) -> None:
        self._has_read_timeout = False
        self._connections.stop_read_timeout(self)

    def _end_with(self, status: int) -> None:
        """Ends the connection with an answer that says why."""
        assert self._transport is not None
        if not self._transport.is_closing():
            self._transport.write(STATUS_LINE[status] + b"content-length: 0\r\nconnection: close\r\n\r\n")
            self._linger()

    def _linger(self) -> None:
        """Ends the connection after an answer to a client that still sends: reads on and drops that, within bounds.

        A socket that is closed before all is read resets the connection, and the client may lose the answer.
        """
        assert self._transport is not None
        if self._is_lingering or self._transport.is_closing():
            return
        self._is_lingering, self._is_delegated = True, False
        self._stop_timer()
        self._early.clear()
        if self._uvicorn is not None:
            self._uvicorn.connection_lost(None)  # a request whose body is refused waits for no more of it
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._transport.resume_reading()
        self._start_read_timeout(min(_MAX_LINGER_S, self._connections.limits.body_s))

    def _drop(self, data: bytes) -> None:
        self._lingering_bytes += len(data)
        is_body_over = False
        if not self._reader.is_read:
            self._reader.pass_on(data)
            is_body_over = self._reader.is_read
        if is_body_over or self._lingering_bytes > _MAX_LINGER_BYTES:
            self.close()

    # --- uvicorn's requests

    def _delegate(self) -> None:
        """Gives uvicorn the request whose head was read, and as much of its body as is there."""
        self._is_delegated = True
        self._drained_bytes = 0
        self._its_uvicorn().begin(self._reader.head)
        if not self._reader.is_read:
            self._start_read_timeout(self._connections.limits.body_s)
        self._feed(self._reader.rest)
        if self._is_ending:
            self.shutdown()
        elif self._connections.is_draining:
            self.drain()

    def _feed(self, data: bytes) -> None:
        """Gives uvicorn what belongs to its request; what lies behind that waits."""
        assert self._uvicorn is not None
        reader = self._reader
        if not reader.is_read:
            if not data:
                return
            part = reader.pass_on(data)
            if reader.is_malformed:
                self._refuse()
                return
            self._uvicorn.data_received(part)
            if not reader.is_read:
                self._drain(len(part))
                return
            data = reader.rest
        if self._has_read_timeout:
            self._stop_read_timeout()
        if data:
            self._hold(data)
        if not self._uvicorn.is_read:
            self.close()  # it sees the request's end elsewhere, and what would come next is anybody's guess
        elif self._is_answered():
            self._next()

    def _drain(self, size: int) -> None:
        """Reads the rest of a body whose request is answered already, within bounds."""
        if self._is_answered():
            self._drained_bytes += size
            if self._drained_bytes > _MAX_DRAIN_BYTES:
                self._linger()

    def _uvicorn_answered(self) -> None:
        assert self._transport is not None
        if self._reader.is_read and not self._is_lingering and not self._transport.is_closing():
            self._next()

    def _uvicorn_closes(self) -> None:
        """Closes the connection after an answer of uvicorn's, whatever has arrived of its request."""
        if self._is_delegated and self._reader.is_read:
            self.close()
        else:
            self._linger()

    def _is_answered(self) -> bool:
        return self._uvicorn is not None and self._uvicorn.is_answered

    def _is_answer_out(self) -> bool:
        return self._uvicorn is not None and (self._uvicorn.is_answered or self._uvicorn.is_amid_answer)

    def _refuse(self) -> None:
        self._its_uvicorn().refuse()

    def _its_uvicorn(self) -> UvicornProtocol:
        if self._uvicorn is None:
            assert self._transport is not None
            self._uvicorn = UvicornProtocol(
                self._config, self._server, self._app_state, self._loop, self._uvicorn_answered, self._uvicorn_closes
            )
            self._uvicorn.connection_made(self._transport)
            if self._client_is_slow:
                self._uvicorn.pause_writing()
        return self._uvicorn

    # --- keep-alive

    def _close_if_unused(self) -> None:
        """Closes a connection that is not used: one timer for many answers looks when the last one was."""
        self._keep_alive_timer = None
        left_s = self.waits_since + self._keep_alive_s - self._loop.time()
        if self._exchange is not None or self._is_delegated or self._reader.is_waiting:
            return
        if left_s > 0:
            self._keep_alive_timer = self._loop.call_later(left_s, self._close_if_unused)
        elif not self.has_arrivals():  # a process that stood still has timers that are due, and requests to read
            self.close()

    def _stop_timer(self) -> None:
        if self._keep_alive_timer is not None:
            self._keep_alive_timer.cancel()
            self._keep_alive_timer = None
