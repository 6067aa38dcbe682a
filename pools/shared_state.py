"""The state of a pool whose workers run many calls at once.

    a call that can run beside others  ──► the worker with its session's state, else the one with the fewest calls
    a load                             ──► an idle worker, else the one with the fewest calls
    any other call                     ──► an idle worker, for itself alone

A worker is let drain for those who need one for themselves and find none idle. It takes no calls meanwhile, and is
theirs once it is idle.
"""

from typing import Final
from weakref import WeakKeyDictionary

from pools.state import PoolState, WorkerSlot, WorkerState
from poolshift.worker.definitions import Definition

_IDLE: Final = WorkerState.IDLE
_BUSY: Final = WorkerState.BUSY


class SharedState(PoolState):
    """Workers, of which each runs up to `lanes` calls at once."""

    def __init__(self, size: int, spare: int, lanes: int) -> None:
        super().__init__(size, spare)
        self._lanes = lanes
        self._calls = 0
        self._alone: set[WorkerSlot] = set()
        """The busy workers whose call, or load, has them for itself."""
        self._kept: set[WorkerSlot] = set()
        """The workers that take no calls beside others, since somebody needs one for himself."""
        self._draining: set[WorkerSlot] = set()
        """The workers that take no calls any more, and are retired after those that they have."""
        self.run_alone: WeakKeyDictionary[Definition, str] = WeakKeyDictionary()
        """The definitions of which each call has its worker for itself although it could run beside others, and why."""

    def __repr__(self) -> str:
        more = f"calls={self._calls} alone={len(self._alone)} kept={len(self._kept)} draining={len(self._draining)}"
        return f"<SharedState {super().__repr__()} {more}>"

    @property
    def live(self) -> int:
        return super().live - len(self._draining)

    @property
    def lanes(self) -> int:
        return self._lanes

    @property
    def calls(self) -> int:
        return self._calls

    @property
    def has_room(self) -> bool:
        return bool(self.idle) or any(self._has_lane(slot) for slot in self.slots)

    def take(self, session_id: str | None, definition: Definition) -> WorkerSlot | None:
        slot = self._last_slot_of(session_id) if session_id is not None else None
        if slot is None or slot in self._kept or not self._can_run(slot, definition):
            able = [slot for slot in self.slots if self._can_run(slot, definition)]
            if not able:
                return None
            slot = min(able, key=self._load_of)
        self._take_lane(slot, definition)
        slot.executions += 1
        if session_id is not None:
            self._remember(session_id, slot)
        return slot

    def can_take(self, definition: Definition) -> bool:
        return any(self._can_run(slot, definition) for slot in self.slots)

    def take_spare(self, definition: Definition, needed: int, avoid_pid: int | None) -> WorkerSlot | None:
        """As `PoolState.take_spare`; beside other calls on a worker that keeps half of its lanes for real ones."""
        able = [slot for slot in self.slots if slot.calls < self._lanes // 2 and self._can_run(slot, definition)]
        beside = [slot for slot in able if self._runs_beside(slot, definition)]
        others = [slot for slot in beside if slot.process is not None and slot.process.pid != avoid_pid]
        if not beside:
            return super().take_spare(definition, needed, avoid_pid)
        slot = min(others or beside, key=self._load_of)
        self._take_lane(slot, definition)
        return slot

    def keep_for_others(self, count: int) -> None:
        """Lets workers drain, half of all at most, for so many calls that need one for themselves."""
        self._kept.difference_update(list(self._kept)[count:])
        lacking = min(count, max(1, self.live // 2)) - len(self._kept) - len(self.idle)
        if lacking > 0:
            able = [slot for slot in self.slots if self._has_lane(slot)]
            self._kept.update(sorted(able, key=self._load_of)[:lacking])

    @property
    def is_keeping(self) -> bool:
        """True while a worker is let drain, or kept idle, for those who need one for themselves."""
        return bool(self._kept)

    @property
    def has_kept_idle(self) -> bool:
        return any(slot in self._kept for slot in self.idle)

    def take_to_load(self, slot: WorkerSlot | None = None) -> WorkerSlot | None:
        """As `PoolState.take_to_load`; the calls of a worker that is not idle wait while it loads."""
        if slot is not None or self.idle:
            return super().take_to_load(slot)
        able = [
            one for one in self.slots if self._has_lane(one) and one.process is not None and not one.process.loading
        ]
        if not able:
            return None
        slot = min(able, key=self._load_of)
        slot.calls += 1
        self._calls += 1
        return slot

    def waits_for_idle(self, definition: Definition) -> bool:
        loaded = self._live_with(definition)
        return bool(loaded) and not any(self._runs_beside(slot, definition) for slot in loaded)

    def runs_beside(self, definition: Definition) -> bool:
        """Tells if calls of a program can run beside others; False as long as no worker has loaded it."""
        return any(self._runs_beside(slot, definition) for slot in self._live_with(definition))

    def _live_with(self, definition: Definition) -> list[WorkerSlot]:
        return [
            slot
            for slot in self.slots
            if slot.is_live and slot.process is not None and slot.process.has_loaded(definition)
        ]

    def _can_run(self, slot: WorkerSlot, definition: Definition) -> bool:
        process = slot.process
        if process is None or not process.has_loaded(definition):
            return False
        return slot.state is _IDLE or (self._has_lane(slot) and self._runs_beside(slot, definition))

    def _has_lane(self, slot: WorkerSlot) -> bool:
        """Tells if a busy worker takes one more call beside those that it has."""
        return (
            slot.state is _BUSY
            and slot.calls < self._lanes
            and slot not in self._alone
            and slot not in self._kept
            and slot not in self._draining
            and slot.process is not None
            and slot.process.left_by is None
        )

    def _runs_beside(self, slot: WorkerSlot, definition: Definition) -> bool:
        if slot.process is None or not slot.process.is_concurrent(definition):
            return False
        return not self.run_alone or definition not in self.run_alone

    def _take_lane(self, slot: WorkerSlot, definition: Definition) -> None:
        is_beside = self._runs_beside(slot, definition)
        if slot.state is _IDLE:
            self._take(slot)
            if is_beside:
                self._alone.discard(slot)
        else:
            slot.calls += 1
            self._calls += 1

    def _take(self, slot: WorkerSlot) -> None:
        """Takes an idle worker as a whole."""
        super()._take(slot)
        self._kept.discard(slot)
        self._alone.add(slot)
        slot.calls = 1
        self._calls += 1

    def give_back(self, slot: WorkerSlot) -> WorkerSlot | None:
        if slot.state is not _BUSY:
            return None
        slot.calls -= 1
        self._calls -= 1
        if slot.calls:
            return None
        self._alone.discard(slot)
        if slot in self._draining:
            self.begin_stop(slot)
            return slot
        return super().give_back(slot)

    def begin_stop(self, slot: WorkerSlot) -> None:
        super().begin_stop(slot)
        self._calls -= slot.calls
        slot.calls = 0
        for group in (self._alone, self._kept, self._draining):
            group.discard(slot)

    def runs_many(self, slot: WorkerSlot) -> bool:
        return slot.is_live and slot not in self._alone

    def begin_drain(self, slot: WorkerSlot) -> bool:
        if slot.state is not _BUSY or slot in self._alone:
            return False
        self._draining.add(slot)
        self._kept.discard(slot)
        return True

    def _serves_on(self, slot: WorkerSlot) -> bool:
        return super()._serves_on(slot) and slot not in self._draining

    def _surplus(self) -> WorkerSlot | None:
        """An idle worker that is due; if none is, one that is busy takes no new calls, so that it will be."""
        surplus = super()._surplus()
        if surplus is None and self.live > self.size:
            due = (slot for slot in self.slots if slot.is_due and slot not in self._draining)
            slot = min((slot for slot in due if slot.state is _BUSY), key=self._load_of, default=None)
            if slot is not None:
                self.begin_drain(slot)  # unless a call has it for itself, after which it is retired
        return surplus

    def _load_of(self, slot: WorkerSlot) -> tuple[bool, bool, int]:
        """Orders workers: first those that are not kept for somebody, and not to be replaced; then by their calls."""
        return slot in self._kept, slot.is_due, slot.calls
