"""Reaches into uvicorn: nothing else here touches what is not its public API (docs/adr/0004).

uvicorn promises nothing about these names. `pyproject.toml` bounds its version, and
`tests/unit/test_uvicorn_adapter.py` fails if one of them changes.
"""

import asyncio
from collections.abc import Callable
from operator import attrgetter
from typing import Any, Final

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.protocols.utils import get_local_addr
from uvicorn.server import ServerState

__all__ = [
    "SEEN_WITH",
    "STATUS_LINE",
    "ServerState",
    "UvicornProtocol",
    "default_headers",
    "local_address",
    "opened",
    "running_tasks",
    "shut",
]

SEEN_WITH: Final = ("0.53", "0.54")
"""The versions that this was seen to work with."""

default_headers: Callable[[ServerState], list[tuple[bytes, bytes]]] = attrgetter("default_headers")
"""Returns the headers that the server puts on every answer; it replaces the list each second."""


def running_tasks(server: ServerState) -> set[asyncio.Task[None]]:
    """The tasks that a server waits for before it ends, and cancels if they take too long."""
    return server.tasks


def opened(server: ServerState, connection: object) -> None:
    """Has the server call the `shutdown` of a connection when it ends."""
    server.connections.add(connection)  # type: ignore[arg-type]  # it asks for `shutdown` alone


def shut(server: ServerState, connection: object) -> None:
    """Takes back `opened`: the server does not wait for this connection any more."""
    server.connections.discard(connection)


def local_address(transport: asyncio.Transport) -> tuple[str, int | None] | None:
    """The host and the port that a client has connected to."""
    return get_local_addr(transport)


class _OwnedTransport(asyncio.Transport):
    """A connection's transport as uvicorn has it: the connection decides how it closes."""

    def __init__(self, transport: asyncio.Transport, on_close: Callable[[], None]) -> None:
        super().__init__()
        self._transport = transport
        self._on_close = on_close
        self._is_closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._is_closing:
            self._transport.write(data)

    def is_closing(self) -> bool:
        return self._is_closing or self._transport.is_closing()

    def close(self) -> None:
        self._is_closing = True
        self._on_close()


class UvicornProtocol(HttpToolsProtocol):
    """Answers the requests of a connection that are no plain execute calls.

    Gets one request at a time, so uvicorn's own pipeline stays empty, and sets no timer for keep-alive: the connection
    has its own.
    """

    def __init__(
        self,
        config: Config,
        server: ServerState,
        app_state: dict[str, Any],
        loop: asyncio.AbstractEventLoop,
        on_answered: Callable[[], None],
        on_close: Callable[[], None],
    ) -> None:
        """Calls `on_answered` after each answer, and `on_close` for uvicorn to have the connection closed."""
        super().__init__(config, server, app_state, loop)
        self._on_answered = on_answered
        self._on_close = on_close
        self.is_read = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Takes over a connection, which stays its owner's for the server."""
        super().connection_made(transport)
        self.transport = _OwnedTransport(transport, self._on_close)
        self.connections.discard(self)

    def begin(self, head: bytes) -> None:
        """Starts the application on the next request, whose head is whole."""
        self.is_read = False
        self.data_received(head)

    def refuse(self) -> None:
        """Answers what is no HTTP as uvicorn does, and ends the connection."""
        message = "Invalid HTTP request received."
        self.logger.warning(message)
        self.send_400_response(message)

    @property
    def is_answered(self) -> bool:
        """Tells if the last request has its whole answer."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def is_amid_answer(self) -> bool:
        """Tells if a part of an answer is out, and not all."""
        return self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete

    @property
    def is_amid_stream(self) -> bool:
        """Tells if the part of an answer that is out does not say how long all of it is."""
        return self.is_amid_answer and bool(self.cycle.chunked_encoding)

    # --- what uvicorn's parser and its request tell

    def on_message_complete(self) -> None:
        """The request has been read to its end."""
        self.is_read = True
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """The request has been answered; without uvicorn's pipeline and its keep-alive, which are the connection's."""
        self.flow.resume_reading()
        self._on_answered()
