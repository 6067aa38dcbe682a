"""All calls that wait in a pool: those that wait for a worker alone, and those that wait for others of their program.

    no limit                             ──► the queue, in the session's lane
    `max_concurrency`                    ──► the program's room
    the next of a room, while the program may run one more  ──► the queue, in a lane of the program's own
    the next of all, if no idle worker has loaded its program  ──► aside (`pools.load_rooms`), until one has

So a call in the queue waits for nothing but a worker, and neither a program at its limit nor one that loads holds
another program's call up.
"""

from typing import Final

from pools.fair_queue import FairQueue, QueuedCall
from pools.load_rooms import LoadRooms

_LANE: Final = "program "
"""Begins the names of programs' lanes. No session's id has a space in it."""


class _LimitedProgram:
    """A program with a limit, while calls of it wait or run."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.limit = 0
        self.running = 0
        self.in_queue = 0
        """The calls that wait for a worker alone. With those that run they are no more than `limit`."""
        self.room = FairQueue()


class CallQueue:
    """The queue and the rooms of one pool."""

    def __init__(self) -> None:
        self._queue = FairQueue()
        self._programs: dict[str, _LimitedProgram] = {}
        self._in_rooms = 0
        self.aside = LoadRooms()
        """The calls that wait for a load. One of a program with a limit counts as one that has begun."""

    def __repr__(self) -> str:
        counts = f"in_rooms={self._in_rooms} aside={self.aside.length} limited={len(self._programs)}"
        return f"<CallQueue waiting={self.waiting} {counts}>"

    @property
    def waiting(self) -> int:
        """The number of calls that wait."""
        return self._queue.length + self._in_rooms + self.aside.length

    @property
    def waiting_for_workers(self) -> int:
        """The number of calls that wait for a worker alone."""
        return self._queue.length

    def can_pass(self, queued_call: QueuedCall) -> bool:
        """Tells if a new call may have an idle worker: nobody waits for one, and its program may run one more."""
        if self._queue.length:
            return False
        if not queued_call.max_concurrency:
            return True
        program = self._programs.get(queued_call.call.program.key)
        return program is None or program.running < queued_call.max_concurrency

    # --- waiting

    def push(self, queued_call: QueuedCall, limit: int) -> QueuedCall | None:
        """As `FairQueue.push`: `limit` is on all calls together, and a lane of a room counts as any other."""
        if not queued_call.max_concurrency and not self._in_rooms and not self.aside.length:
            return self._queue.push(queued_call, limit)
        shed = self.make_room(queued_call, limit)
        if shed is not queued_call:
            self.push_over_limit(queued_call)
        return shed

    def make_room(self, queued_call: QueuedCall, limit: int) -> QueuedCall | None:
        """Takes a call out that makes room for a new one, if that is needed; returns the new one if none does."""
        if self.waiting < limit:
            return None
        rooms = [program.room for program in self._programs.values()]
        longest = max((self._queue, *rooms, *self.aside.rooms()), key=FairQueue.longest_lane)
        shed = longest.shed_for(queued_call, self._own_lane(queued_call))
        if shed is not queued_call:
            self.remove(shed)
        return shed

    def push_over_limit(self, queued_call: QueuedCall) -> None:
        """Lets a call wait, however many wait already."""
        if not queued_call.max_concurrency:
            self._queue.push_over_limit(queued_call)
            return
        program = self._program_of(queued_call)
        program.room.push_over_limit(queued_call)
        self._in_rooms += 1
        self._advance(program)

    def push_back(self, queued_call: QueuedCall) -> None:
        """Lets a call wait on that was popped, and perhaps has begun: it is the next."""
        if queued_call.max_concurrency:
            program = self._program_of(queued_call)
            program.running -= 1
            program.in_queue += 1
            queued_call.lane = _LANE + queued_call.call.program.key
        self._queue.push_back(queued_call)

    def pop(self) -> QueuedCall | None:
        """The next whose turn it is; `began` must follow if it has a limit."""
        while (queued_call := self._queue.pop()) is not None:
            if not queued_call.max_concurrency:
                return queued_call
            program = self._program_of(queued_call)
            program.in_queue -= 1
            if not queued_call.is_over:
                return queued_call
            self._advance(program)
        return None

    def remove(self, queued_call: QueuedCall) -> bool:
        """Takes a call out; False if it does not wait (any more)."""
        if queued_call.is_aside:
            return self._remove_from_aside(queued_call)
        if not queued_call.max_concurrency:
            return self._queue.remove(queued_call)
        program = self._programs.get(queued_call.call.program.key)
        if program is None:
            return False
        if program.room.remove(queued_call):
            self._in_rooms -= 1
        elif self._queue.remove(queued_call):
            program.in_queue -= 1
        else:
            return False
        self._advance(program)
        return True

    def _remove_from_aside(self, queued_call: QueuedCall) -> bool:
        is_removed = self.aside.remove(queued_call)
        if is_removed and queued_call.max_concurrency:
            self.ended(queued_call)
        return is_removed

    # --- the calls of programs with a limit

    def began(self, queued_call: QueuedCall) -> None:
        """Counts a call that goes to a worker."""
        program = self._program_of(queued_call)
        program.running += 1
        self._advance(program)

    def ended(self, queued_call: QueuedCall) -> None:
        """Counts a call that has run: the next of its program may."""
        program = self._programs[queued_call.call.program.key]
        program.running -= 1
        self._advance(program)

    def is_in_room(self, queued_call: QueuedCall) -> bool:
        """Tells if a waiting call waits for others of its program."""
        return queued_call.max_concurrency > 0 and not (queued_call.lane or "").startswith(_LANE)

    # --- looking at it

    def ahead_of(self, queued_call: QueuedCall) -> int:
        """The number of calls served before one that joins now: of its program alone, if that has a limit."""
        if not queued_call.max_concurrency:
            return self._queue.ahead_of(queued_call.lane)
        program = self._programs.get(queued_call.call.program.key)
        return 0 if program is None else program.room.ahead_of(queued_call.lane)

    def depth(self, queued_call: QueuedCall) -> int:
        """The number of calls that wait for what `queued_call` waits for: a worker, or its program."""
        if not queued_call.max_concurrency:
            return self._queue.length
        program = self._programs.get(queued_call.call.program.key)
        return 0 if program is None else program.room.length

    def queued_calls(self) -> list[QueuedCall]:
        """Everyone who waits."""
        waiting = self._queue.queued_calls() + self.aside.queued_calls()
        for program in self._programs.values():
            waiting += program.room.queued_calls()
        return waiting

    def _own_lane(self, queued_call: QueuedCall) -> int:
        return max(self._own_lane_here(queued_call), self.aside.lane_length(queued_call))

    def _own_lane_here(self, queued_call: QueuedCall) -> int:
        if not queued_call.max_concurrency:
            return self._queue.lane_length(queued_call.lane)
        program = self._programs.get(queued_call.call.program.key)
        return 0 if program is None else program.room.lane_length(queued_call.lane)

    def _program_of(self, queued_call: QueuedCall) -> _LimitedProgram:
        key = queued_call.call.program.key
        program = self._programs.get(key)
        if program is None:
            program = self._programs[key] = _LimitedProgram(key)
        program.limit = queued_call.max_concurrency
        return program

    def _advance(self, program: _LimitedProgram) -> None:
        """Lets the next of a room wait for a worker, if none does and the program may run one more."""
        if not program.in_queue and program.running < program.limit:
            queued_call = program.room.pop()
            if queued_call is not None:
                self._in_rooms -= 1
                program.in_queue += 1
                queued_call.lane = _LANE + program.key
                self._queue.push_over_limit(queued_call)
            elif not program.running:
                self._programs.pop(program.key, None)
