"""Accepts connections from the address that all replicas listen on: the one with the fewest takes the next.

The kernel would give most of them to whoever looks first, and the workers of the others would be idle.
"""

import asyncio
import errno
from collections.abc import Callable, Sequence
from functools import partial
from socket import socket
from typing import Final

import structlog

from app.replicas.page import Page, Row, State
from app.replicas.replica import SILENT_AFTER_S
from common.tasks import TaskOwner

TURN_S: Final = 0.002
"""Time that a replica with fewer connections has for taking one, in seconds: it may be busy."""
NO_ROOM_S: Final = 0.1
"""The pause after a connection for which there was no descriptor, in seconds."""
_NO_ROOM: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

_log = structlog.stdlib.get_logger("poolshift.replicas")


class Acceptor:
    """Takes this replica's share of the connections until it is closed."""

    def __init__(
        self, listeners: Sequence[socket], page: Page, index: int, connect: Callable[[], asyncio.Protocol]
    ) -> None:
        """Takes `connect`, which makes the service's end of a connection."""
        self._listeners = listeners
        self._page = page
        self._index = index
        self._connect = connect
        self._loop = asyncio.get_running_loop()
        self._tasks = TaskOwner("connections", is_detached=True)
        self._open = 0
        self._coming = 0
        """Connections that were accepted and have no end of ours yet."""
        self._timers: dict[socket, asyncio.TimerHandle] = {}
        self._is_closed = False
        for listener in listeners:
            listener.setblocking(False)
            self._watch(listener)

    def __repr__(self) -> str:
        return f"<Acceptor open={self._open} coming={self._coming} is_closed={self._is_closed}>"

    def counted(self, count: int) -> None:
        """Notes the number of open connections."""
        self._open = count
        self._show()

    async def aclose(self) -> None:
        """Accepts nothing more; whoever comes is left to the other replicas."""
        self._is_closed = True
        for timer in self._timers.values():
            timer.cancel()
        for listener in self._listeners:
            self._loop.remove_reader(listener)
        await self._tasks.finish()

    def _watch(self, listener: socket) -> None:
        self._timers.pop(listener, None)
        self._loop.add_reader(listener, self._readable, listener)

    def _readable(self, listener: socket) -> None:
        while self._is_next():
            if not self._accept(listener):
                return
        self._rest(listener, TURN_S, self._take_turn)

    def _take_turn(self, listener: socket) -> None:
        """Takes the connection that no other replica has taken meanwhile."""
        self._watch(listener)
        self._accept(listener)

    def _rest(self, listener: socket, seconds: float, then: Callable[[socket], None]) -> None:
        self._loop.remove_reader(listener)
        self._timers[listener] = self._loop.call_later(seconds, then, listener)

    def _is_next(self) -> bool:
        """Tells if no replica that could take a connection has fewer."""
        own = self._open + self._coming
        return not any(
            count < own and self._could_take(index)
            for index, count in enumerate(self._page.row(Row.CONNECTIONS))
            if index != self._index
        )

    def _could_take(self, replica: int) -> bool:
        is_serving = self._page.get(Row.STATE, replica) == State.SERVING
        return is_serving and self._page.silence_s(replica) < SILENT_AFTER_S

    def _accept(self, listener: socket) -> bool:
        """Accepts one connection; False if there is none, or no room for it."""
        try:
            accepted, _ = listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return False
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            _log.warning("no room for another connection", reason=error.strerror)
            self._rest(listener, NO_ROOM_S, self._watch)
            return False
        self._coming += 1
        self._show()
        opening = self._tasks.start(self._begin(accepted))
        opening.add_done_callback(partial(self._came, accepted))
        return True

    async def _begin(self, accepted: socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._connect, accepted)
        except OSError:  # its client has gone already
            accepted.close()

    def _came(self, accepted: socket, _: asyncio.Task[None]) -> None:
        self._coming -= 1
        self._show()

    def _show(self) -> None:
        self._page.set(Row.CONNECTIONS, self._index, self._open + self._coming)
