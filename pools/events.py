"""The events of a running program, and the way in which a slow listener holds it up.

The pipe itself is the last buffer: while a sink has paused its source, the service leaves what the worker sends
there; once that is full the worker blocks in its write, and with it the program alone. A worker that runs many calls
at once is told which of them waits, and has it wait before its next event.
"""

import time
from typing import Final, Protocol

import msgspec

from pools.process.channel import Channel
from poolshift.worker.framing import frame_of_two
from poolshift.worker.messages import EventKind, Flow

_encode: Final = msgspec.json.Encoder().encode


class EventSource(Protocol):
    """The source of a call's events. Once the call has ended, both methods do nothing."""

    def pause(self) -> None:
        """Sends no more events, but for those of the read that is under way."""

    def resume(self) -> None:
        """Sends events again."""


class EventSink(Protocol):
    """Takes a call's events, in their order, on the event loop."""

    @property
    def has_taken(self) -> bool:
        """True once an event has come: then the program is not run again, since the listener would hear it twice."""
        ...

    def began(self, source: EventSource) -> None:
        """Notes that a worker has the call; if it dies before the first event, another may have it later."""

    def put(self, kind: EventKind, data: msgspec.Raw) -> None:
        """Takes one event; `data` is a JSON value."""


class FlowControl:
    """The source of the events of one call on one worker.

    A call that has its worker for itself is held up by the pipe; one of many is told to wait.
    """

    def __init__(self, channel: Channel, execution_id: str | None = None) -> None:
        """Takes the `execution_id` of a call that runs beside others."""
        self._channel = channel
        self._execution_id = execution_id
        self._is_closed = False
        self._paused_at: float | None = None
        self._held_s = 0.0

    def pause(self) -> None:
        if not self._is_closed and self._paused_at is None:
            self._paused_at = time.perf_counter()
            self._set_open(is_open=False)

    def resume(self) -> None:
        if self._paused_at is not None:
            self._held_s += time.perf_counter() - self._paused_at
            self._paused_at = None
            self._set_open(is_open=True)

    def _set_open(self, *, is_open: bool) -> None:
        if self._execution_id is not None:
            self._channel.send(frame_of_two(_encode(Flow(self._execution_id, is_open)), b""))
        elif is_open:
            self._channel.resume_reading()
        else:
            self._channel.pause_reading()

    def close(self) -> float:
        """The call has ended; for how many seconds its events were held up."""
        self.resume()
        self._is_closed = True
        return self._held_s
