"""V1, the old engine: every operation goes through one coordinator, one at a time, however many workers there are.

This is what V2 replaces, kept as it was in what it promises and in what it costs; only its faults were not kept
(see docs/adr).
"""

from collections import deque

import msgspec

from pools.engine import Engine, PoolOptions
from pools.events import EventKind, EventSink, EventSource
from pools.fair_queue import Ticket
from pools.protocol import PoolObserver
from pools.spawner import Spawner


class SessionPool(Engine):
    """A mailbox, the queue, and a coordinator that talks to one worker at a time for everyone."""

    def __init__(self, version: str, options: PoolOptions, spawner: Spawner, observer: PoolObserver) -> None:
        super().__init__(version, options, spawner, observer)
        self._attends_to: Ticket | None = None
        """The operation that has the coordinator."""
        self._resumed: deque[_Turn] = deque()

    def _can_begin(self) -> bool:
        return self._attends_to is None and bool(self._state.idle)

    @property
    def _concurrency(self) -> int:
        return 1

    def _engage(self, ticket: Ticket) -> None:
        self._attends_to = ticket
        if ticket.call.events is not None:
            ticket.call.events = _Turn(ticket, ticket.call.events, self)

    def _release(self, ticket: Ticket) -> None:
        if self._attends_to is ticket:
            self._attends_to = None
        if isinstance(ticket.call.events, _Turn):
            ticket.call.events = ticket.call.events.end()

    def _serve_queue(self) -> None:
        while self._resumed and self._attends_to is None:
            turn = self._resumed.popleft()
            if not turn.is_over:
                self._attends_to = turn.ticket
                turn.go_on()
        super()._serve_queue()

    def let_go(self, turn: "_Turn") -> None:
        """A stream has to wait for its client: the coordinator does not wait with it."""
        if self._attends_to is turn.ticket:
            self._attends_to = None
            self._serve_queue()

    def come_back(self, turn: "_Turn") -> None:
        """A stream could go on; it does when the coordinator comes round to it."""
        self._resumed.append(turn)
        self._serve_queue()


class _Turn:
    """The coordinator's attention to one stream: lost while its client takes no events, so that nobody waits for that.

    To the worker it is the sink, to the real sink the source.
    """

    def __init__(self, ticket: Ticket, sink: EventSink, coordinator: SessionPool) -> None:
        self.ticket = ticket
        self.is_over = False
        self._sink = sink
        self._coordinator = coordinator
        self._source: EventSource | None = None

    # --- towards the worker

    @property
    def has_taken(self) -> bool:
        return self._sink.has_taken

    def began(self, source: EventSource) -> None:
        self._source = source
        self._sink.began(self)

    def put(self, kind: EventKind, data: msgspec.Raw) -> None:
        self._sink.put(kind, data)

    # --- towards the real sink

    def pause(self) -> None:
        assert self._source is not None
        self._source.pause()
        self._coordinator.let_go(self)

    def resume(self) -> None:
        if not self.is_over:
            self._coordinator.come_back(self)

    # --- towards the coordinator

    def go_on(self) -> None:
        """Lets the stream go on."""
        assert self._source is not None
        self._source.resume()

    def end(self) -> EventSink:
        """The stream is over; who listened to it."""
        self.is_over = True
        return self._sink
