"""Bounds the time for which a slow listener of a stream holds its worker up while other calls wait."""

import asyncio
from collections.abc import Callable

import msgspec

from pools.events import EventSink, EventSource
from poolshift.worker.messages import EventKind

HOLD_LIMIT_S = 3.0
"""A stream may hold its worker up for this long at a stretch while calls wait; for ever if none does."""
_LOOK_EVERY_S = 0.5


class Backpressure:
    """Stands between the worker and the listener of one call: the sink of the one, the source of the other."""

    def __init__(self, sink: EventSink, is_wanted: Callable[[], bool], end: Callable[[], None]) -> None:
        """`is_wanted` says if others wait for the worker; `end` is called if the worker was held up for too long."""
        self.is_over = False
        self._sink = sink
        self._is_wanted = is_wanted
        self._end = end
        self._source: EventSource | None = None
        self._timer: asyncio.TimerHandle | None = None

    # --- towards the worker

    @property
    def has_taken(self) -> bool:
        return self._sink.has_taken

    def began(self, source: EventSource) -> None:
        self._source = source
        self._sink.began(self)

    def put(self, kind: EventKind, data: msgspec.Raw) -> None:
        self._sink.put(kind, data)

    # --- towards the listener

    def pause(self) -> None:
        assert self._source is not None
        self._source.pause()
        if not self.is_over:
            self._look_in(HOLD_LIMIT_S)

    def resume(self) -> None:
        self.taken()
        if not self.is_over:
            self.go_on()

    # --- towards the engine

    def go_on(self) -> None:
        """Lets the worker send again."""
        assert self._source is not None
        self._source.resume()

    def close(self) -> EventSink:
        """Ends the link once the call has run. Returns the listener."""
        self.is_over = True
        self.taken()
        return self._sink

    # --- how long it is held up

    def taken(self) -> None:
        """Notes that the listener holds the worker up no longer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look_in(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._look)

    def _look(self) -> None:
        if self._is_wanted():
            self._end()
        else:
            self._look_in(_LOOK_EVERY_S)
