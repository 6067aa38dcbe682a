"""Bounds the connections of the service: no client holds one, or the memory of its answer, for as long as it likes."""

import asyncio
import errno
import heapq
import math
import os
import resource
import sys
from collections.abc import Callable
from typing import Final

import structlog

from app.execute.exchange import Endpoint
from common.log_budget import LineBudget
from common.timers import DeadlineTimer

GRACE_S: Final = 1.0
"""An answer that has been on its way for less than this, in seconds, is not dropped for the memory it takes."""
_MIN_PROGRESS_BYTES: Final = 64 * 1024
_MAX_RESERVE: Final = 1024
"""Descriptors that are left to all else: workers, the database, and connections before one of them can be closed."""
_LINES_PER_S: Final = 5
_NO_LIMIT: Final = sys.maxsize
_ROOM_CHECK_S: Final = 0.1
"""Time between two looks at the descriptors that are left, once half of them are taken, in seconds."""

_log = structlog.stdlib.get_logger("poolshift.http")


class Limits:
    """The limits of all connections, in seconds and bytes."""

    def __init__(self, *, head_s: float, body_s: float, answer_s: float, unread_bytes: int) -> None:
        """See `HEAD_TIMEOUT_S`, `BODY_TIMEOUT_S`, `ANSWER_TIMEOUT_S` and `MAX_UNREAD_BYTES`."""
        self.head_s = head_s
        self.body_s = body_s
        self.answer_s = answer_s
        self.unread_bytes = unread_bytes


class Connection:
    """A connection, as the limits see it."""

    def __init__(self) -> None:
        self.waits_since = 0.0
        """The time at which it was opened, or its last answer was written."""

    def awaits_client(self) -> bool:
        """Tells if nothing is due from the service: it is idle, or its request is unfinished."""
        raise NotImplementedError

    def drain(self) -> None:
        """Has its next answer close it, since the service is about to end."""
        raise NotImplementedError

    def has_arrivals(self) -> bool:
        """Tells if its client has sent something that is not read yet."""
        raise NotImplementedError

    def is_amid_stream(self) -> bool:
        """Tells if its answer is a stream, which has limits of its own."""
        raise NotImplementedError

    def unread_bytes(self) -> int:
        """The bytes of answers that wait for the client to read."""
        raise NotImplementedError

    def time_out(self) -> None:
        """Ends a request that takes too long to arrive."""
        raise NotImplementedError

    def close(self) -> None:
        """Closes the connection, once what was written has left."""
        raise NotImplementedError

    def abort(self) -> None:
        """Closes the connection, and drops what was written."""
        raise NotImplementedError


class _Unread:
    """An answer that its client does not read fast enough."""

    def __init__(self, since: float, due: float, size: int) -> None:
        self.since = since
        self.due = due
        self.size = size
        """In bytes, when `due` was set."""


class Connections:
    """All connections of the service. One timer serves them all, and none of it is on the way of a plain call."""

    def __init__(self, endpoint: Endpoint, limits: Limits) -> None:
        self.endpoint = endpoint
        self.limits = limits
        self.is_draining = False
        """Set once the service is about to end: each answer closes its connection from then on."""
        self.on_count: Callable[[int], None] | None = None
        """Called with the number of open connections when it has changed."""
        self._loop = asyncio.get_running_loop()
        self._open: dict[Connection, None] = {}
        """In the order in which they came: many come in the same millisecond, the most that the loop's clock tells."""
        self._closing: set[Connection] = set()
        """The connections that were closed to make room, until their descriptors are free."""
        self._most_open = _NO_LIMIT
        """Limit of the open connections; there is one while descriptors are scarce."""
        self._unfinished: dict[Connection, float] = {}
        self._unread: dict[Connection, _Unread] = {}
        self._timer = DeadlineTimer(self._sweep)
        self._lines = LineBudget(lines=_LINES_PER_S, size=1024 * 1024, tell=_tell_left_out)
        self._scarce_lines = LineBudget(lines=1, size=1024 * 1024, tell=lambda _: None)
        self._descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._scarce_from = self._descriptors - min(self._descriptors // 8, _MAX_RESERVE)
        self._room_check: asyncio.TimerHandle | None = None

    def drain(self) -> None:
        """Has each answer close its connection from now on, those that are due already included."""
        self.is_draining = True
        for connection in list(self._open):
            connection.drain()

    # --- what a connection tells

    def opened(self, connection: Connection, descriptor: int) -> None:
        """Counts a connection in, and closes others if descriptors grow scarce.

        The kernel gives the lowest descriptor that is free, so `descriptor` tells how many are not.
        """
        self._open[connection] = None
        if self.on_count is not None:
            self.on_count(len(self._open))
        if descriptor >= self._scarce_from:
            self._limit_open(descriptor + 1)
        if len(self._open) > self._most_open:
            self._make_room(connection)
        if descriptor >= self._scarce_from // 2 and self._room_check is None:
            self._room_check = self._loop.call_later(_ROOM_CHECK_S, self._check_room)

    def lost(self, connection: Connection) -> None:
        """Forgets a connection."""
        self._open.pop(connection, None)
        self._closing.discard(connection)
        self._unfinished.pop(connection, None)
        self._unread.pop(connection, None)
        if self.on_count is not None:
            self.on_count(len(self._open))

    def start_read_timeout(self, connection: Connection, limit_s: float) -> None:
        """Times a request out unless it has arrived within `limit_s`; a second call takes the place of the first."""
        due = _whole(self._loop.time() + limit_s)
        self._unfinished[connection] = due
        self._timer.set(due)

    def stop_read_timeout(self, connection: Connection) -> None:
        """Takes back `start_read_timeout`."""
        self._unfinished.pop(connection, None)

    def start_answer_timeout(self, connection: Connection) -> None:
        """Bounds the answer that a client does not read at the moment."""
        now = self._loop.time()
        due = _whole(now + self.limits.answer_s)
        self._unread[connection] = _Unread(now, due, connection.unread_bytes())
        self._timer.set(due)
        self._bound_unread(now)

    def stop_answer_timeout(self, connection: Connection) -> None:
        """Takes back `start_answer_timeout`."""
        self._unread.pop(connection, None)

    # --- what becomes of them

    def _sweep(self, now: float) -> float:
        for connection in [connection for connection, due in self._unfinished.items() if due <= now]:
            del self._unfinished[connection]
            connection.time_out()
        for connection in [connection for connection, unread in self._unread.items() if unread.due <= now]:
            self._look_at_unread(connection, now)
        self._bound_unread(now)
        dues = [*self._unfinished.values(), *[unread.due for unread in self._unread.values()]]
        return min(dues, default=math.inf)

    def _look_at_unread(self, connection: Connection, now: float) -> None:
        unread, size = self._unread[connection], connection.unread_bytes()
        if connection.is_amid_stream() or size <= unread.size - _MIN_PROGRESS_BYTES:
            unread.due, unread.size = _whole(now + self.limits.answer_s), size
        else:
            self._drop(connection)

    def _bound_unread(self, now: float) -> None:
        """Drops the answers that have been waiting longest, if all together are too large."""
        too_much = sum([one.unread_bytes() for one in self._unread]) - self.limits.unread_bytes
        if too_much <= 0:
            return
        for connection, unread in list(self._unread.items()):
            if too_much <= 0:
                return
            if unread.since + GRACE_S > now:
                self._timer.set(unread.since + GRACE_S)
                return
            if not connection.is_amid_stream():
                too_much -= connection.unread_bytes()
                self._drop(connection)

    def _drop(self, connection: Connection) -> None:
        size = connection.unread_bytes()
        del self._unread[connection]
        if self._lines.admits(0):
            _log.warning("a client did not read its answer", bytes_left=size)
        connection.abort()

    def _check_room(self) -> None:
        """Makes room without a newcomer: without a descriptor, a new connection is reset before it is counted in."""
        self._room_check = None
        try:
            lowest = os.dup(2)
            os.close(lowest)
        except OSError as error:
            lowest = self._descriptors if error.errno in (errno.EMFILE, errno.ENFILE) else 0
        if lowest >= self._scarce_from:
            self._limit_open(lowest)
            self._make_room(None)
        if lowest >= self._scarce_from // 2:
            self._room_check = self._loop.call_later(_ROOM_CHECK_S, self._check_room)
        else:
            self._most_open = _NO_LIMIT

    def _limit_open(self, taken: int) -> None:
        """Sets the number of connections at which no scarce descriptor is taken, from how many descriptors are.

        The next descriptors do not tell: newcomers get those of the connections that were closed, as many as there are.
        """
        self._most_open = len(self._open) + len(self._closing) - (taken - self._scarce_from)

    def _make_room(self, newcomer: Connection | None) -> None:
        """Closes those that have waited longest for their client, a few more than have to go.

        A client whose next request has just arrived is no longer waited for: it would see a reset.
        """
        if self._scarce_lines.admits(0):
            _log.warning("descriptors are scarce; connections that wait for their client are closed")
        waiting = [one for one in self._open if one is not newcomer and one.awaits_client()]
        excess = max(0, len(self._open) - self._most_open)
        few = max(1, len(waiting) // 16) if newcomer is not None else max(4, len(waiting) // 8)
        for connection in heapq.nsmallest(excess + few, waiting, key=_waits_since):
            if connection.has_arrivals():
                continue
            del self._open[connection]
            self._closing.add(connection)
            connection.close()


def _whole(seconds: float) -> float:
    """Rounded up to a whole second, so that one sweep does for many."""
    return float(math.ceil(seconds))


def _waits_since(connection: Connection) -> float:
    return connection.waits_since


def _tell_left_out(count: int) -> None:
    _log.warning("clients did not read their answers, without a line for each", count=count)
