"""Has workers load the programs of calls that find no idle worker which has loaded them.

    an idle worker has loaded it           ──► the call goes there; nothing is done here
    else, and few workers load for calls   ──► an idle worker begins to load it, and the call waits aside
    else                                   ──► the call waits aside until a worker may load it

A load is an operation of its own. No coordinator waits for it, and a call that waits aside goes to the first idle
worker that has loaded its program, whichever that is.
"""

import asyncio
import time
from collections.abc import Callable
from itertools import islice
from typing import Final

from common.timers import DeadlineTimer
from pools.call_queue import CallQueue
from pools.calls import Program
from pools.errors import ExecutionError, LoadFailed, LoadTimeout, WorkerCrashed, WorkerFull, WorkerLost
from pools.fair_queue import QueuedCall
from pools.process.interface import LoadOrder
from pools.state import PoolState, WorkerSlot
from pools.supervisor import Supervisor
from poolshift.worker.definitions import Definition

LOOKS: Final = 8
"""The rooms that one look for a call compares; clients choose how many there are."""


class Loads:
    """The loads that calls of one pool wait for: on a quarter of the workers at most, and on one at least."""

    def __init__(
        self,
        state: PoolState,
        supervisor: Supervisor,
        queue: CallQueue,
        *,
        load_timeout_s: float,
        timer: DeadlineTimer,
        resolve: Callable[[QueuedCall, Exception], None],
        serve_queue: Callable[[], None],
    ) -> None:
        """Takes the `timer` that watches the waits, and what gives idle workers their calls as `serve_queue`.

        `resolve` answers a call whose program could not be loaded.
        """
        self._state = state
        self._supervisor = supervisor
        self._queue = queue
        self._load_timeout_s = load_timeout_s
        self._timer = timer
        self._resolve = resolve
        self._serve_queue = serve_queue
        self._loading: dict[WorkerSlot, Program] = {}
        self._is_next = False
        """True if an idle worker is for a call that waits aside, not for the queue, which take turns."""
        self._loop = asyncio.get_running_loop()

    def __repr__(self) -> str:
        return f"<Loads loading={len(self._loading)} aside={self._queue.aside.length}>"

    @property
    def count(self) -> int:
        """The workers that load at the moment."""
        return len(self._loading)

    @property
    def served(self) -> int:
        """The calls aside that have a worker already: the one that loads their program."""
        return min(len(self._loading), self._queue.aside.length)

    @property
    def wanting(self) -> int:
        """The calls aside that wait for an idle worker alone: some worker may load."""
        aside = self._queue.aside
        return aside.length if aside.length and self.may_load else 0

    @property
    def wanting_idle(self) -> int:
        """The calls aside whose program is loaded, and that need a worker for themselves."""
        aside = self._queue.aside
        alone = [one for one in islice(aside.definitions(), LOOKS) if self._state.waits_for_idle(one)]
        return sum(aside.room_length(one) for one in alone)

    @property
    def may_load(self) -> bool:
        """True if one more worker may load for a call."""
        return len(self._loading) < max(1, self._state.size // 4)

    def let_wait(self, queued_call: QueuedCall) -> None:
        """Lets a call wait aside, and begins to load its program if a worker may."""
        now = self._loop.time()
        queued_call.left_s = max(0.0, queued_call.give_up_at - now)
        queued_call.since = time.perf_counter()
        needs_load = not self._state.waits_for_idle(queued_call.call.program.definition)
        if needs_load:
            queued_call.give_up_at += self._load_timeout_s
            queued_call.call.is_loading = True
        self._queue.aside.push(queued_call)
        self._timer.set(queued_call.give_up_at)
        if self.may_load and (needs_load or self._state.idle):
            self._begin(queued_call)

    def take_turn(self) -> tuple[QueuedCall, WorkerSlot] | None:
        """Gives an idle worker to the calls aside, if it is their turn.

        Returns a call, and the worker that has loaded its program and is taken for it; or begins a load.
        """
        self._is_next = not self._is_next
        if not self._is_next and self._queue.waiting_for_workers and not self._state.has_kept_idle:
            return None
        ready = self._take_ready()
        if ready is None and self.may_load:
            self._begin_waiting()
        return ready

    def end_wait(self, queued_call: QueuedCall) -> None:
        """Counts the time that a call was aside as its program's: its deadline, and its wait, are later by as much.

        If it waited for a worker of its own alone, that was part of its wait.
        """
        call, now = queued_call.call, time.perf_counter()
        waited_s, queued_call.since = now - queued_call.since, now
        if not call.is_loading:
            call.queued_s += waited_s
            return
        call.load_s += waited_s
        call.deadline += waited_s
        call.is_loading = False
        queued_call.give_up_at = min(self._loop.time() + queued_call.left_s, call.deadline)
        self._timer.set(queued_call.give_up_at)

    def _take_ready(self) -> tuple[QueuedCall, WorkerSlot] | None:
        aside = self._queue.aside
        for definition in list(islice(aside.definitions(), LOOKS)):
            if not self._state.can_take(definition):
                continue
            queued_call = self._pop(definition)
            taken = None if queued_call is None else self._state.take(queued_call.call.session_id, definition)
            return None if queued_call is None or taken is None else (queued_call, taken)
        return None

    def _pop(self, definition: Definition) -> QueuedCall | None:
        """Takes the next call of a room that somebody still waits for."""
        while (queued_call := self._queue.aside.pop(definition)) is not None:
            self.end_wait(queued_call)
            if not queued_call.is_over:
                return queued_call
            if queued_call.max_concurrency:
                self._queue.ended(queued_call)
        return None

    def _begin_waiting(self) -> None:
        """Begins the load of the room that has waited longest for one, if a worker is idle."""
        aside, loading = self._queue.aside, {program.definition for program in self._loading.values()}
        for definition in list(islice(aside.definitions(), LOOKS)):
            aside.postpone(definition)
            needs_load = self._state.idle or not self._state.waits_for_idle(definition)
            if needs_load and definition not in loading:
                self._begin(aside.next_of(definition))
                return

    # --- one load

    def _begin(self, queued_call: QueuedCall) -> None:
        slot = self._state.take_to_load()
        if slot is None:
            return
        call = queued_call.call
        program = call.program
        order = LoadOrder(call.execution_id, call.traceparent)
        self._loading[slot] = program
        try:
            self._supervisor.load(slot, program, order, lambda failure: self._ended(slot, program, failure))
        except WorkerLost:
            del self._loading[slot]  # each time round takes a dead worker out of the pool
            self._begin(queued_call)
        except WorkerFull:
            del self._loading[slot]
            self._supervisor.give_back(slot)
            self._supervisor.drain(slot)  # its replacement has room
        except ExecutionError as error:
            self._ended(slot, program, error)

    def _ended(self, slot: WorkerSlot, program: Program, failure: ExecutionError | None) -> None:
        """Ends a load: the calls that waited for it go on, or are answered."""
        del self._loading[slot]
        self._supervisor.give_back(slot)
        self._is_next = True  # so that the queue is next, where those calls are the first
        self.settle(program.definition, failure)
        self._serve_queue()

    def settle(self, definition: Definition, failure: ExecutionError | None) -> None:
        """Lets calls aside wait for a worker alone, since their program is loaded, or answers them.

        After a failure on one worker, while another has the program or loads it, that is one call.
        """
        is_elsewhere = any(program.definition is definition for program in self._loading.values())
        if failure is None:
            if not is_elsewhere:
                self._put_back(definition)
            return
        is_elsewhere = is_elsewhere or self._has_live(definition)
        is_counted = False
        while (queued_call := self._pop(definition)) is not None:
            if queued_call.max_concurrency:
                self._queue.ended(queued_call)
            self._resolve(queued_call, _copy(failure, is_counted=is_counted))
            is_counted = True
            if is_elsewhere:
                break
        if is_elsewhere and not any(program.definition is definition for program in self._loading.values()):
            self._put_back(definition)

    def _has_live(self, definition: Definition) -> bool:
        """Tells if a worker that can serve has loaded the program."""
        return any(
            slot.process is not None and slot.process.has_loaded(definition)
            for slot in self._state.slots
            if slot.is_live
        )

    def _put_back(self, definition: Definition) -> None:
        """Puts all calls of a room back to the head of the queue, in their order."""
        waiting = []
        while (queued_call := self._pop(definition)) is not None:
            waiting.append(queued_call)
        for queued_call in reversed(waiting):
            self._queue.push_back(queued_call)


def _copy(failure: ExecutionError, *, is_counted: bool) -> ExecutionError:
    """Makes an error for one more call. The death of a worker counts once against its program."""
    match failure:
        case WorkerCrashed():
            return WorkerCrashed(
                str(failure),
                exit_cause=failure.exit_cause,
                is_ours=failure.is_ours,
                blamed=failure.blamed,
                is_counted=is_counted,
            )
        case LoadTimeout():
            return LoadTimeout(str(failure))
        case LoadFailed():
            return LoadFailed(str(failure))
        case _:
            return failure
