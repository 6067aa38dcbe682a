"""Server-sent events: an execution's progress and output as they come, then its result or its error.

A bounded buffer lies between the worker and the client. If the client reads too slowly, the buffer fills and the worker
waits. No other call waits for that: see `pools.events`.
"""

import asyncio
from collections import deque
from collections.abc import Callable

import msgspec
from starlette.types import Send

from app.execute.response import Response, headers_in
from pools.events import EventSource
from poolshift.worker.messages import EventKind

CONTENT_TYPE = b"text/event-stream"
HEARTBEAT_S = 15.0
"""Interval of heartbeats. A proxy that closes silent connections usually waits at least twice as long."""
START_AFTER_S = 1.0
"""Time that a call runs before its answer starts without an event.

An error that comes earlier is answered with its own status.
"""
LINGER_S = 30.0
"""Time that a client has to read the remaining events after the execution has ended."""
MAX_EVENTS = 64
MAX_BYTES = 1024 * 1024
_CHUNK_BYTES = 64 * 1024


def asks_for_events(accept: bytes) -> bool:
    """Tells if an Accept header (RFC 9110, 12.5.1) names event streams and does not prefer JSON to them."""
    quality = {b"text/event-stream": 0.0, b"application/json": 0.0}
    for media_range in accept.lower().split(b","):
        name, *parameters = (part.strip() for part in media_range.split(b";"))
        if name in quality:
            quality[name] = next((_quality(one) for one in parameters if one.startswith(b"q=")), 1.0)
    return quality[b"text/event-stream"] > 0 and quality[b"text/event-stream"] >= quality[b"application/json"]


def _quality(parameter: bytes) -> float:
    try:
        return float(parameter[2:])
    except ValueError:
        return 1.0


class EventBuffer:
    """The sink of one call's events.

    At `MAX_EVENTS` or `MAX_BYTES` the buffer pauses the call until the writer has taken half of them. The service may
    have read more from the worker before the pause, one read at most. The buffer holds these events too.
    """

    def __init__(self) -> None:
        self.has_begun = False
        self.has_taken = False
        self._events: deque[bytes] = deque()
        self._size = 0
        self._source: EventSource | None = None
        self._is_paused = False
        self._changed = asyncio.Event()

    # --- for the pool

    def began(self, source: EventSource) -> None:
        self._source = source
        self.has_begun = True
        self.wake()

    def put(self, kind: EventKind, data: msgspec.Raw) -> None:
        self.has_taken = True
        event = format_event(kind, bytes(data))
        self._events.append(event)
        self._size += len(event)
        if not self._is_paused and (len(self._events) >= MAX_EVENTS or self._size >= MAX_BYTES):
            assert self._source is not None
            self._is_paused = True
            self._source.pause()
        self.wake()

    # --- for the writer

    def take(self) -> bytes:
        """Takes the oldest events, about `_CHUNK_BYTES` of them; empty if there are none."""
        taken, size = [], 0
        while self._events and size < _CHUNK_BYTES:
            event = self._events.popleft()
            taken.append(event)
            size += len(event)
        self._size -= size
        if self._is_paused and len(self._events) <= MAX_EVENTS // 2 and self._size <= MAX_BYTES // 2:
            assert self._source is not None
            self._is_paused = False
            self._source.resume()
        return b"".join(taken)

    async def changed(self, timeout_s: float) -> bool:
        """Waits for the next change of the buffer or the outcome; False if there is none within `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        except TimeoutError:
            return False
        self._changed.clear()
        return True

    def wake(self) -> None:
        """Wakes the writer, because the buffer or the outcome has changed."""
        self._changed.set()


class EventStream:
    """Answers one request with the events of its call."""

    def __init__(
        self,
        events: EventBuffer,
        outcome: asyncio.Task[Response],
        lines: Callable[[], bytes],
        send: Send,
        *,
        heartbeat_s: float = HEARTBEAT_S,
    ) -> None:
        """Takes the call's ordinary answer as `outcome`. `lines` writes the first headers when the answer starts."""
        self._events = events
        self._outcome = outcome
        self._lines = lines
        self._send = send
        self._heartbeat_s = heartbeat_s
        self._limit: asyncio.Timeout | None = None
        self.bytes_sent = 0

    async def run(self) -> Response | None:
        """Sends all events and the outcome.

        If the call fails before its first event, sends nothing and returns the ordinary answer.

        Raises:
            TimeoutError: the client does not read the remaining events.
        """
        self._outcome.add_done_callback(lambda _: self._events.wake())
        while not self._events.has_taken and not self._outcome.done():
            if not await self._events.changed(START_AFTER_S if self._events.has_begun else self._heartbeat_s):
                break
        if not self._events.has_taken and self._outcome.done() and self._outcome.result()[0] >= 400:
            return self._outcome.result()
        headers = [
            *headers_in(self._lines()),
            (b"content-type", CONTENT_TYPE),
            (b"cache-control", b"no-store"),
            (b"x-accel-buffering", b"no"),  # nginx would keep events back
        ]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        self._outcome.add_done_callback(self._begin_to_linger)
        try:
            async with asyncio.timeout(None) as self._limit:
                await self._send_events()
                status, _, body = self._outcome.result()
                await self._send_part(format_event("result" if status < 400 else "error", body), more=False)
        finally:
            self._limit = None
        return None

    def _begin_to_linger(self, _: asyncio.Task[Response]) -> None:
        if self._limit is not None:
            self._limit.reschedule(asyncio.get_running_loop().time() + LINGER_S)

    async def _send_events(self) -> None:
        while True:
            if part := self._events.take():
                await self._send_part(part)
            elif self._outcome.done():
                return
            elif not await self._events.changed(self._heartbeat_s):
                await self._send_part(b": heartbeat\n\n")

    async def _send_part(self, part: bytes, *, more: bool = True) -> None:
        self.bytes_sent += len(part)
        await self._send({"type": "http.response.body", "body": part, "more_body": more})


def format_event(name: str, data: bytes) -> bytes:
    """Formats an event for the wire. A line break in the JSON would end the data, so it becomes a space."""
    return b"event: %s\ndata: %s\n\n" % (name.encode(), b" ".join(data.splitlines()))
