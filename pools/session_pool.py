"""V1, the old engine: every operation goes through one coordinator, one at a time, however many workers there are.

This is what V2 replaces, kept as it was in what it promises and in what it costs; only its faults were not kept
(see docs/adr).
"""

from collections import deque
from collections.abc import Callable
from functools import partial

from pools.engine import PoolOptions
from pools.events import EventSink
from pools.fair_queue import Ticket
from pools.held_stream import HeldStream, StreamingEngine
from pools.process.spawner import Spawner
from pools.protocol import PoolObserver


class SessionPool(StreamingEngine):
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
        super()._engage(ticket)

    def _hold(self, ticket: Ticket, sink: EventSink) -> HeldStream:
        return _Turn(ticket, sink, self, self._is_short_of_workers, partial(self._end_held, ticket))

    def _release(self, ticket: Ticket) -> None:
        if self._attends_to is ticket:
            self._attends_to = None
        super()._release(ticket)

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


class _Turn(HeldStream):
    """The coordinator's attention to one stream: lost while its client takes no events: nobody waits for that."""

    def __init__(
        self,
        ticket: Ticket,
        sink: EventSink,
        coordinator: SessionPool,
        is_wanted: Callable[[], bool],
        end: Callable[[], None],
    ) -> None:
        super().__init__(sink, is_wanted, end)
        self.ticket = ticket
        self._coordinator = coordinator

    def pause(self) -> None:
        super().pause()
        self._coordinator.let_go(self)

    def resume(self) -> None:
        self.taken()
        if not self.is_over:
            self._coordinator.come_back(self)
