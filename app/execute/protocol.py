"""The service's end of a connection: execute calls are read and answered here, all else by uvicorn.

uvicorn's protocol takes a fifth of an execute call's time (docs/adr/0004), for what such a call never asks for.
"""

import asyncio
import contextvars
from typing import Any, Final

from starlette.types import ASGIApp
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.protocols.utils import get_local_addr, get_remote_addr
from uvicorn.server import ServerState

from app.execute.exchange import Exchange
from app.execute.reader import CallReader

_MAX_HEAD_BYTES: Final = 64 * 1024
"""Of a request's head after its first piece: uvicorn would go on for ever, in ever more time for each byte."""


class LaneProtocol:
    """One connection, an `asyncio.Protocol` that uvicorn makes for each.

    Between two requests a plain execute call becomes an `Exchange`. Whatever else arrives is handed to uvicorn's own
    protocol, with all that follows until it is answered:

        uvicorn at a request?          ──► uvicorn
        an exchange not answered yet?  ──► it waits, and nothing more is read
        a call, or a part of one?      ──► an exchange, once it is whole
        anything else                  ──► uvicorn
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._config = config
        self._server = server_state
        self._app_state = app_state
        self._app: ASGIApp = config.loaded_app
        self._keep_alive_s = float(config.timeout_keep_alive)
        self._loop = _loop or asyncio.get_running_loop()
        self._reader = CallReader()
        self._transport: asyncio.Transport | None = None
        self._scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": config.asgi_version, "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "query_string": b"",
            "root_path": "",
            "state": app_state,
        }
        """What all calls of the connection have in theirs."""
        self._uvicorn: HttpToolsProtocol | None = None
        """There is one once it has been needed."""
        self._exchange: Exchange | None = None
        """The call that is being answered."""
        self._early = b""
        """What came before that was answered."""
        self._client_is_slow = False
        """It does not read its answers."""
        self._held_back: bytes | None = None
        """The answer that waits until it does."""
        self._is_ending = False
        """No request is taken on but those that have begun to arrive."""
        self._unfinished_head_bytes = 0
        """Which uvicorn has."""
        self._answered_at = 0.0
        self._keep_alive_timer: asyncio.TimerHandle | None = None

    # --- what the transport tells

    def connection_made(self, transport: asyncio.Transport) -> None:
        """The client is there."""
        self._transport = transport
        self._scope["server"], self._scope["client"] = get_local_addr(transport), get_remote_addr(transport)
        self._server.connections.add(self)  # type: ignore[arg-type]  # it asks for `shutdown` alone

    def connection_lost(self, error: Exception | None) -> None:
        """The client has gone."""
        self._server.connections.discard(self)
        self._stop_timer()
        self._reader.release()
        self._held_back = None
        if self._exchange is not None:
            self._exchange.client_gone()
        if self._uvicorn is not None:
            self._uvicorn.connection_lost(error)

    def eof_received(self) -> None:
        """The client sends no more: by the default of asyncio the transport closes."""

    def data_received(self, data: bytes) -> None:
        """Bytes have arrived."""
        if self._uvicorn is not None and not _is_between_requests(self._uvicorn):
            self._feed(self._uvicorn, data)
        elif self._exchange is not None:
            assert self._transport is not None
            self._early += data
            self._transport.pause_reading()
        else:
            self._take(data)

    def pause_writing(self) -> None:
        """The client does not read its answers."""
        self._client_is_slow = True
        if self._uvicorn is not None:
            self._uvicorn.pause_writing()

    def resume_writing(self) -> None:
        """It reads again."""
        self._client_is_slow = False
        if self._uvicorn is not None:
            self._uvicorn.resume_writing()
        if self._held_back is not None:
            data, self._held_back = self._held_back, None
            self._answer(data)

    # --- what the server tells

    def shutdown(self) -> None:
        """Closes the connection, once what has begun to arrive on it is answered."""
        assert self._transport is not None
        self._is_ending = True
        if self._exchange is not None:
            if not self._early:
                self._exchange.keep_alive = False
            return
        if self._reader.is_waiting:
            self._hand_over(self._reader.release())
        if self._uvicorn is not None:
            self._uvicorn.shutdown()
        else:
            self._transport.close()

    # --- one request

    def _take(self, data: bytes) -> None:
        """What has arrived between two requests."""
        if not self._reader.take(data):
            self._hand_over(self._reader.release())
            return
        if self._uvicorn is not None:
            self._uvicorn._unset_keepalive_if_required()
        if self._reader.is_whole:
            self._begin()

    def _begin(self) -> None:
        """Has the call that was read answered."""
        target = self._reader.target
        scope = self._scope.copy()
        scope["path"], scope["raw_path"], scope["headers"] = target.decode(), target, self._reader.headers
        exchange = self._exchange = Exchange(scope, self._reader.body(), self._server, self._answer)
        exchange.begin(self._app, self._loop)

    def _answer(self, data: bytes) -> None:
        assert self._transport is not None
        assert self._exchange is not None
        if self._client_is_slow:
            self._held_back = data
            return
        exchange, self._exchange = self._exchange, None
        self._transport.write(data)
        self._server.total_requests += 1
        if not exchange.keep_alive:
            self._transport.close()
            return
        self._answered_at = self._loop.time()
        if self._early:
            contextvars.Context().run(self._take_early)  # not in that of the call which is over
        elif self._keep_alive_timer is None:
            self._keep_alive_timer = self._loop.call_later(self._keep_alive_s, self._close_if_unused)

    def _take_early(self) -> None:
        assert self._transport is not None
        data, self._early = self._early, b""
        self._transport.resume_reading()
        self._take(data)
        if self._is_ending:
            self.shutdown()

    def _hand_over(self, data: bytes) -> None:
        """Gives uvicorn what has arrived between two requests."""
        assert self._transport is not None
        self._stop_timer()  # from now on it has its own
        if self._uvicorn is None:
            self._uvicorn = HttpToolsProtocol(self._config, self._server, self._app_state, self._loop)
            self._uvicorn.connection_made(self._transport)
            self._server.connections.discard(self._uvicorn)  # it is not the connection
            if self._client_is_slow:
                self._uvicorn.pause_writing()
        self._feed(self._uvicorn, data)

    def _feed(self, uvicorn: HttpToolsProtocol, data: bytes) -> None:
        assert self._transport is not None
        if self._unfinished_head_bytes > _MAX_HEAD_BYTES:
            return  # refused already
        scope = uvicorn.scope
        uvicorn.data_received(data)
        is_one_head = _is_in_head(uvicorn) and uvicorn.scope is scope
        self._unfinished_head_bytes = self._unfinished_head_bytes + len(data) if is_one_head else 0
        if self._unfinished_head_bytes > _MAX_HEAD_BYTES and not self._transport.is_closing():
            if uvicorn.cycle is None or uvicorn.cycle.response_complete:
                self._transport.write(STATUS_LINE[431] + b"content-length: 0\r\nconnection: close\r\n\r\n")
            uvicorn.shutdown()  # once what came before is answered

    # --- keep-alive

    def _close_if_unused(self) -> None:
        """One timer for many answers: it looks when the last one was."""
        assert self._transport is not None
        self._keep_alive_timer = None
        left_s = self._answered_at + self._keep_alive_s - self._loop.time()
        if self._exchange is not None or self._reader.is_waiting:
            return
        if left_s > 0:
            self._keep_alive_timer = self._loop.call_later(left_s, self._close_if_unused)
        else:
            self._transport.close()

    def _stop_timer(self) -> None:
        if self._keep_alive_timer is not None:
            self._keep_alive_timer.cancel()
            self._keep_alive_timer = None


def _is_between_requests(uvicorn: HttpToolsProtocol) -> bool:
    """Whether its last request is read and answered to the end, and it has seen nothing of the next."""
    cycle = uvicorn.cycle
    return cycle is not None and cycle.response_complete and not cycle.more_body and cycle.scope is uvicorn.scope


def _is_in_head(uvicorn: HttpToolsProtocol) -> bool:
    """Whether what it has seen last is the head of a request, and not all of that."""
    return uvicorn.cycle is None or uvicorn.cycle.scope is not uvicorn.scope
