"""The whole mutable state of a pool, in one place and one printable line, and every transition it makes.

All of it is synchronous: a transition changes the state and returns what is to be done; the I/O comes after, in the
engines and in `pools.supervisor`. A worker goes

    starting ──► idle ◄──► busy            taken and given back
        │          │         │
        └──────────┴─────────┴──► stopping ──► gone

and only `gone`, that is a confirmed death, frees its place.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from pools.process.interface import Worker
from poolshift.worker.definitions import Definition


class WorkerState(StrEnum):
    """The state of a worker."""

    STARTING = "starting"
    IDLE = "idle"
    BUSY = "busy"
    STOPPING = "stopping"


_IDLE: Final = WorkerState.IDLE
_BUSY: Final = WorkerState.BUSY


@dataclass(slots=True, eq=False)
class WorkerSlot:
    """A place in the pool and the process that fills it: while it is being warmed, and once it has started."""

    state: WorkerState = WorkerState.STARTING
    process: Worker | None = None
    executions: int = 0
    is_due: bool = False
    """To be recycled: it serves on until its replacement is ready."""
    """Set if another process has had the worker: its executions may be counted after its death."""
    was_loading: bool = False
    """Set once the worker was asked to load a program: its death may be the program's."""
    is_full: bool = False
    """Set once the worker's memory has grown past the bound of warming."""
    rss_before: int | None = None
    """Resident memory in bytes before the running call, if its program has a limit and the memory is known."""
    calls: int = 0
    """Calls that run on a worker that several share (`pools.shared_state`)."""

    @property
    def is_live(self) -> bool:
        """True if the worker can serve or is serving."""
        return self.state is _IDLE or self.state is _BUSY

    def note_memory(self, rss_bytes: int) -> None:
        """Notes the resident memory before the running call."""
        self.rss_before = rss_bytes


REMEMBERED_SESSIONS: Final = 10_000
"""A pool remembers which worker served each of this many last sessions, and of at most twice as many."""


class PoolState:
    """Workers and counts of one pool."""

    def __init__(self, size: int, spare: int) -> None:
        """`size` workers serve; up to `spare` processes more may live while others are being replaced."""
        self.size = size
        self.spare = spare
        self.slots: set[WorkerSlot] = set()
        self.idle: list[WorkerSlot] = []
        """The idle workers; the one that was used last is the last."""
        self.busy = 0
        """The number of busy workers."""
        self.is_closing = False
        # In two generations: a session that comes again costs one look into one dictionary, which a list by age would
        # make a walk through cold memory.
        self._last_slot: dict[str, WorkerSlot] = {}
        self._last_slot_before: dict[str, WorkerSlot] = {}

    def __repr__(self) -> str:
        counts = " ".join(f"{state}={count}" for state, count in self.counts().items())
        return f"<PoolState size={self.size} spare={self.spare} {counts} closing={self.is_closing}>"

    def counts(self) -> dict[WorkerState, int]:
        """The number of workers in each state."""
        counts = dict.fromkeys(WorkerState, 0)
        for slot in self.slots:
            counts[slot.state] += 1
        return counts

    @property
    def live(self) -> int:
        """Workers that can serve or are serving."""
        return len(self.idle) + self.busy

    @property
    def lanes(self) -> int:
        """The calls that a worker can run at once."""
        return 1

    @property
    def calls(self) -> int:
        """The calls that run, those included that nobody waits for, and the loads."""
        return self.busy

    @property
    def has_room(self) -> bool:
        """True if some call may go to a worker now."""
        return bool(self.idle)

    def wanted(self) -> int:
        """The number of workers to start now.

        1. A closing pool starts none.
        2. Every place without a worker that serves, or will, wants one; a worker that is due wants one more beside
           it, one such at a time.
        3. But processes are never more than size + spare, counting those that are still dying.
        """
        if self.is_closing:
            return 0
        serving = [slot for slot in self.slots if self._serves_on(slot)]
        due = any(slot.is_due for slot in serving)
        return max(0, min(self.size + due - len(serving), self.size + self.spare - len(self.slots)))

    def _serves_on(self, slot: WorkerSlot) -> bool:
        """Tells if a worker serves or will, and is not about to go."""
        return slot.state is not WorkerState.STOPPING

    def begin_start(self) -> WorkerSlot:
        """Takes a place for a process that is being started."""
        slot = WorkerSlot()
        self.slots.add(slot)
        return slot

    def started(self, slot: WorkerSlot, process: Worker) -> WorkerSlot | None:
        """Makes a worker idle that is ready, and warm. Returns the idle worker that it replaces, to be retired now."""
        slot.process = process
        slot.state = _IDLE
        self.idle.append(slot)
        return self._surplus()

    def take(self, session_id: str | None, definition: Definition) -> WorkerSlot | None:
        """Takes an idle worker that has loaded the program: the one that served the session last, else used last.

        None if no worker is idle, or none that has loaded it.
        """
        slot = self._last_slot_of(session_id) if session_id is not None else None
        if slot is None or not self._can_run(slot, definition):
            slot = self._last_used_with(definition)
            if slot is None:
                return None
        self._take(slot)
        slot.executions += 1
        if session_id is not None:
            self._remember(session_id, slot)
        return slot

    def can_take(self, definition: Definition) -> bool:
        """Tells if `take` would find a worker for a call of no session."""
        return self._last_used_with(definition) is not None

    def take_to_load(self, slot: WorkerSlot | None = None) -> WorkerSlot | None:
        """Takes a worker that is to load a program: `slot`, which is idle, or the idle one used least recently."""
        if slot is None and self.idle:
            slot = self.idle[0]
        if slot is not None:
            self._take(slot)
        return slot

    def take_spare(self, definition: Definition, needed: int, avoid_pid: int | None) -> WorkerSlot | None:
        """Takes a worker for a call that nobody waits for, another than `avoid_pid` if there is one.

        It is the idle worker that was used least recently. None if no more are idle than the real calls that may begin
        at any moment, `needed`, are to find: one at most.
        """
        if len(self.idle) - (min(1, needed) if self.size > 1 else 0) < 1:
            return None
        others = (slot for slot in self.idle if slot.process is not None and slot.process.pid != avoid_pid)
        return self.take_to_load(next(others, None))

    def waits_for_idle(self, definition: Definition) -> bool:
        """Tells if a call waits for a worker of its own alone, and not for one that loads its program."""
        return False

    @property
    def has_kept_idle(self) -> bool:
        """True if a worker is idle that was let drain for calls which wait for one of their own."""
        return False

    def runs_many(self, slot: WorkerSlot) -> bool:
        """Tells if a worker is idle, or runs calls that can run beside others, in a pool that has such."""
        return False

    def begin_drain(self, slot: WorkerSlot) -> bool:
        """Gives a worker no new calls, so that it is retired after those that it has. False if it has one at most."""
        return False

    def _can_run(self, slot: WorkerSlot, definition: Definition) -> bool:
        return slot.state is _IDLE and slot.process is not None and slot.process.has_loaded(definition)

    def _last_used_with(self, definition: Definition) -> WorkerSlot | None:
        for index in range(len(self.idle) - 1, -1, -1):
            slot = self.idle[index]
            if self._can_run(slot, definition):
                return slot
        return None

    def _take(self, slot: WorkerSlot) -> None:
        if self.idle[-1] is slot:
            self.idle.pop()
        else:
            self.idle.remove(slot)
        slot.state = _BUSY
        self.busy += 1

    def give_back(self, slot: WorkerSlot) -> WorkerSlot | None:
        """Makes a worker idle after its call, unless it is being stopped. Returns a worker to be retired now."""
        if slot.state is not _BUSY:
            return None
        self.busy -= 1
        slot.state = _IDLE
        self.idle.append(slot)
        return self._surplus() if slot.is_due else None

    def begin_stop(self, slot: WorkerSlot) -> None:
        """Takes a worker that is to die out of service."""
        if slot.state is _BUSY:
            self.busy -= 1
        elif slot.state is _IDLE:
            self.idle.remove(slot)
        slot.state = WorkerState.STOPPING

    def gone(self, slot: WorkerSlot) -> None:
        """Frees the place of a worker that is dead."""
        self.begin_stop(slot)
        self.slots.discard(slot)

    def _surplus(self) -> WorkerSlot | None:
        """An idle worker that is due, if enough others serve."""
        if self.live <= self.size:
            return None
        due = next((slot for slot in self.idle if slot.is_due), None)
        if due is not None:
            self.begin_stop(due)
        return due

    def _last_slot_of(self, session_id: str) -> WorkerSlot | None:
        return self._last_slot.get(session_id) or self._last_slot_before.get(session_id)

    def _remember(self, session_id: str, slot: WorkerSlot) -> None:
        if self._last_slot.get(session_id) is slot:
            return
        if len(self._last_slot) >= REMEMBERED_SESSIONS:
            self._last_slot_before, self._last_slot = self._last_slot, {}
        self._last_slot[session_id] = slot
