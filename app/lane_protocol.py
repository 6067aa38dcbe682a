"""The service's end of a connection: execute calls are read and answered here, all else by uvicorn.

uvicorn's protocol takes a fifth of an execute call's time (docs/adr/0004), for what such a call never asks for.
"""

import asyncio
from typing import Any

from starlette.types import ASGIApp
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.utils import get_local_addr, get_remote_addr
from uvicorn.server import ServerState

from app.call_reader import CallReader
from app.exchange import Exchange


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
        if self._exchange is not None:
            self._exchange.client_gone()
        if self._uvicorn is not None:
            self._uvicorn.connection_lost(error)

    def eof_received(self) -> None:
        """The client sends no more: by the default of asyncio the transport closes."""

    def data_received(self, data: bytes) -> None:
        """Bytes have arrived."""
        if self._uvicorn is not None and not _is_between_requests(self._uvicorn):
            self._uvicorn.data_received(data)
        elif self._exchange is not None or self._client_is_slow:
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
        self._take_early()

    # --- what the server tells

    def shutdown(self) -> None:
        """Closes the connection, once what has begun to arrive on it is answered."""
        assert self._transport is not None
        if self._exchange is not None:
            self._exchange.keep_alive = False
            return
        if self._reader.is_waiting:
            self._hand_over()
        if self._uvicorn is not None:
            self._uvicorn.shutdown()
        else:
            self._transport.close()

    # --- one request

    def _take(self, data: bytes) -> None:
        """What has arrived between two requests."""
        if not self._reader.take(data):
            self._hand_over()
            return
        if self._uvicorn is not None:
            self._uvicorn._unset_keepalive_if_required()
        if self._reader.is_whole:
            self._begin()

    def _take_early(self) -> None:
        if self._early and self._exchange is None and not self._client_is_slow:
            assert self._transport is not None
            data, self._early = self._early, b""
            self._transport.resume_reading()
            self._take(data)

    def _begin(self) -> None:
        """Has the call that was read answered."""
        target = self._reader.target
        scope = self._scope.copy()
        scope["path"], scope["raw_path"], scope["headers"] = target.decode(), target, self._reader.headers
        exchange = self._exchange = Exchange(scope, self._reader.body(), self._server, self._answer)
        exchange.begin(self._app, self._loop)

    def _answer(self, data: bytes, is_last: bool) -> None:  # noqa: FBT001  # called by position
        assert self._transport is not None
        self._exchange = None
        self._transport.write(data)
        self._server.total_requests += 1
        if is_last:
            self._transport.close()
            return
        self._answered_at = self._loop.time()
        if self._keep_alive_timer is None:
            self._keep_alive_timer = self._loop.call_later(self._keep_alive_s, self._close_if_unused)
        self._take_early()

    def _hand_over(self) -> None:
        """Gives what has arrived to uvicorn."""
        assert self._transport is not None
        self._stop_timer()  # from now on it has its own
        if self._uvicorn is None:
            self._uvicorn = HttpToolsProtocol(self._config, self._server, self._app_state, self._loop)
            self._uvicorn.connection_made(self._transport)
            self._server.connections.discard(self._uvicorn)  # it is not the connection
        self._uvicorn.data_received(self._reader.release())

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
