"""Runs calls on workers that nobody else needs: they wait in no queue, and end when a real call needs their worker.

Such a call counts in no total and no quarantine, and takes no turn of a coordinator's.
"""

import asyncio
from collections.abc import Callable
from functools import partial

from pools.call_queue import CallQueue
from pools.calls import Call, Result
from pools.errors import ExecutionError, Preempted, WorkerLost
from pools.fair_queue import QueuedCall
from pools.process.exits import ExitCause
from pools.state import PoolState, WorkerSlot
from pools.supervisor import Supervisor


class _IdleRun(QueuedCall):
    """A call on an idle worker, with the answer that somebody may wait for."""

    def __init__(self, call: Call, answer: asyncio.Future[Result]) -> None:
        super().__init__(call, partial(_resolve, answer))
        self.answer = answer


class IdleRuns:
    """The calls of one pool that run on idle workers: on half of the workers at most."""

    def __init__(
        self, state: PoolState, supervisor: Supervisor, queue: CallQueue, serve_queue: Callable[[], None]
    ) -> None:
        self._state = state
        self._supervisor = supervisor
        self._queue = queue
        self._serve_queue = serve_queue
        self._running: dict[_IdleRun, None] = {}
        """In the order of their beginning."""

    @property
    def count(self) -> int:
        """The number of calls that run on workers which nobody else needs."""
        return len(self._running)

    def begin(self, call: Call, needed: int, avoid_pid: int | None) -> asyncio.Future[Result] | None:
        """Begins `call` on a worker that is not `avoid_pid`, if there is another; returns None if none is to spare.

        `needed` is the number of real calls that may begin at any moment: as many workers stay idle, one at most.
        """
        answer: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        queued_call = _IdleRun(call, answer)
        most = max(1, self._state.size * self._state.lanes // 2)
        if len(self._running) >= most or not self._queue.can_pass(queued_call):
            return None
        slot = queued_call.slot = self._state.take_spare(call.program.definition, needed, avoid_pid)
        if slot is None:
            return None
        if queued_call.max_concurrency:
            self._queue.began(queued_call)
        self._running[queued_call] = None
        try:
            self._supervisor.give(slot, call, partial(self._end, queued_call, slot))
        except ExecutionError as error:
            self._end(queued_call, slot, error)
        except Exception as error:
            self._leave(queued_call, Preempted() if isinstance(error, WorkerLost) else error)
            if not isinstance(error, WorkerLost):
                self._supervisor.kill(slot, ExitCause.CANCELLED)
        else:
            self._supervisor.dispatched -= 1
        return answer

    def make_room(self, real: QueuedCall, *, is_short: bool) -> None:
        """Ends a run that holds up `real`, which waits: for others of its program, or, if `is_short`, for a worker."""
        key = real.call.program.key
        for queued_call in reversed(self._running):
            if is_short or (real.max_concurrency and queued_call.call.program.key == key):
                self._end_early(queued_call)
                return

    def end(self, answer: asyncio.Future[Result]) -> None:
        """Ends the run with this answer, if it still runs: nobody waits for it any more."""
        for queued_call in self._running:
            if queued_call.answer is answer:
                self._end_early(queued_call)
                return

    def _end_early(self, queued_call: _IdleRun) -> None:
        assert queued_call.slot is not None
        self._leave(queued_call, Preempted())
        self._supervisor.end_call(queued_call.slot, queued_call.call, ExitCause.CANCELLED)

    def _end(self, queued_call: _IdleRun, slot: WorkerSlot, outcome: Result | Exception) -> None:
        """Ends a run. Its worker gets the next real call first."""
        self._forget(queued_call)
        try:
            self._supervisor.give_back(slot)
            self._serve_queue()
        finally:
            _resolve(queued_call.answer, outcome)

    def _leave(self, queued_call: _IdleRun, outcome: Exception) -> None:
        self._forget(queued_call)
        _resolve(queued_call.answer, outcome)

    def _forget(self, queued_call: _IdleRun) -> None:
        if queued_call not in self._running:
            return
        del self._running[queued_call]
        if queued_call.max_concurrency:
            self._queue.ended(queued_call)


def _resolve(answer: asyncio.Future[Result], outcome: Result | Exception) -> None:
    if answer.done():
        return
    if isinstance(outcome, Result):
        answer.set_result(outcome)
    else:
        answer.set_exception(outcome)
        answer.exception()  # retrieved, since nobody may wait for it any more
