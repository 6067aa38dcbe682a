"""V1, the old engine: every operation goes through one coordinator, one at a time, however many workers there are.

This is what V2 replaces, kept as it was in what it promises and in what it costs; only its faults were not kept
(see docs/adr).
"""

from collections import deque
from collections.abc import Callable
from functools import partial

from common.background import Background
from pools.backpressure import Backpressure
from pools.engine import Engine, PoolOptions
from pools.events import EventSink
from pools.fair_queue import QueuedCall
from pools.process.interface import WorkerSpawner
from pools.protocol import PoolObserver
from poolshift.worker.definitions import Definition


class SessionPool(Engine):
    """A mailbox, the queue, and a coordinator that talks to one worker at a time for everyone."""

    def __init__(
        self,
        version: str,
        options: PoolOptions,
        spawner: WorkerSpawner,
        observer: PoolObserver,
        background: Background,
    ) -> None:
        super().__init__(version, options, spawner, observer, background)
        self._attends_to: QueuedCall | None = None
        """The operation that has the coordinator."""
        self._resumed: deque[_Turn] = deque()

    def _can_begin(self) -> bool:
        return self._attends_to is None and bool(self._state.idle)

    @property
    def _concurrency(self) -> int:
        return 1

    def capacity_of(self, definition: Definition) -> int:
        return 1

    def _engage(self, queued_call: QueuedCall) -> None:
        self._attends_to = queued_call
        super()._engage(queued_call)

    def _backpressure_on(self, queued_call: QueuedCall, sink: EventSink) -> Backpressure:
        return _Turn(queued_call, sink, self, self._is_short_of_workers, partial(self._end_held, queued_call))

    def _release(self, queued_call: QueuedCall) -> None:
        if self._attends_to is queued_call:
            self._attends_to = None
        super()._release(queued_call)

    def _serve_queue(self) -> None:
        while self._resumed and self._attends_to is None:
            turn = self._resumed.popleft()
            if not turn.is_over:
                self._attends_to = turn.queued_call
                turn.go_on()
        super()._serve_queue()

    def let_go(self, turn: "_Turn") -> None:
        """A stream has to wait for its client: the coordinator does not wait with it."""
        if self._attends_to is turn.queued_call:
            self._attends_to = None
            self._serve_queue()

    def come_back(self, turn: "_Turn") -> None:
        """A stream could go on; it does when the coordinator comes round to it."""
        self._resumed.append(turn)
        self._serve_queue()


class _Turn(Backpressure):
    """The coordinator's attention to one stream, lost while its client takes no events, since nobody waits for that."""

    def __init__(
        self,
        queued_call: QueuedCall,
        sink: EventSink,
        coordinator: SessionPool,
        is_wanted: Callable[[], bool],
        end: Callable[[], None],
    ) -> None:
        super().__init__(sink, is_wanted, end)
        self.queued_call = queued_call
        self._coordinator = coordinator

    def pause(self) -> None:
        super().pause()
        self._coordinator.let_go(self)

    def resume(self) -> None:
        self.taken()
        if not self.is_over:
            self._coordinator.come_back(self)
