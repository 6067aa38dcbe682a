"""The ramp on this replica and in the store: one value, its revision, and what is still to be written."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

import structlog

from routing.rollout import ramp as ramps
from routing.rollout.ramp import Ramp, RampState
from routing.rollout.ramp_clock import RampClock, StepTimes
from routing.rollout.ramp_store import FoundRamp, RampStore, StaleRamp, StoredRamp
from routing.rollout.run_evidence import RunEvidence

NO_GAP_S: Final = 1.0
"""A start within so many seconds after the last sign of life of a service leaves the times of the step as they are."""

_log = structlog.stdlib.get_logger("poolshift.ramp")


class RampRecord:
    """The current ramp. Every move goes through `take`, which also begins its clock and its evidence."""

    def __init__(self, store: RampStore, evidence: RunEvidence) -> None:
        self.ramp = Ramp()
        self.since = datetime.now(UTC)
        """The time at which the ramp came into its state."""
        self.clock: Final = RampClock()
        self.writing: Final = asyncio.Lock()
        """Held by whoever writes the ramp."""
        self.listeners: Final[list[Callable[[Ramp, Ramp], None]]] = []
        """Called with the ramp before and after each change of its state, or of its run."""
        self._store = store
        self._evidence = evidence
        self._revision = 0
        self._dirty = False

    def __repr__(self) -> str:
        return f"<RampRecord {self.ramp!r} revision={self._revision} dirty={self._dirty}>"

    # --- in memory

    def take_up(self, found: FoundRamp) -> None:
        """Goes on with the ramp that the store has: nothing has moved since.

        The step's hold counts the time in which a service ran. The wait counts the other time too if its end is a
        rollback: so no ramp moves upwards because nothing happened. What counted is to be written, so that the time
        in which no service ran is left out by the next start, too.
        """
        stored = found.stored
        self._revision = stored.revision
        self._put(stored.ramp)
        times, ramp = stored.times, stored.ramp
        self.since = stored.at if times is None or times.since is None else times.since
        if times is not None and ramp.state.is_active and ramp.pinned is None:
            ends_in_rollback = ramp.plan is not None and ramp.plan.on_inconclusive == "rollback"
            waited_s = found.ran_s + (found.idle_s if ends_in_rollback else 0.0)
            self.clock.set(ramp, times.held_s + found.ran_s, times.waited_s + waited_s)
            self._dirty = found.idle_s > NO_GAP_S
        elif times is not None:
            self.clock.set(ramp, times.held_s, times.waited_s)
        if stored.ramp.state is not RampState.IDLE:
            _log.info("ramp found", state=stored.ramp.state, step=stored.ramp.step + 1, by=stored.ramp.by)

    def take(self, ramp: Ramp) -> None:
        """Moves on to a ramp that is in force here, and still to be written."""
        self._move(ramp)
        self._dirty = True

    def adopt(self, stored: StoredRamp) -> None:
        """Moves on to a ramp that the store has."""
        self._revision = stored.revision
        self._dirty = False
        self._move(stored.ramp)
        if (times := stored.times) is not None:
            self.clock.set(stored.ramp, times.held_s, times.waited_s)
            self.since = times.since or self.since

    def follow(self, stored: StoredRamp) -> None:
        """Moves on to a revision that another replica has written, if it is newer."""
        if stored.revision > self._revision:
            self.adopt(stored)

    def written_behind(self, stored: StoredRamp) -> None:
        """Takes note of a written revision that a rollback, which is still to be written, has overtaken here."""
        self._revision = stored.revision

    def _move(self, ramp: Ramp) -> None:
        before = self.ramp
        self._put(ramp)
        if (ramp.state, ramp.step) != (before.state, before.step):
            self.since = datetime.now(UTC)
            _log.info("ramp moved", state=ramp.state, step=ramp.step + 1, by=ramp.by, reason=ramp.reason)
        if (ramp.state, ramp.run) != (before.state, before.run):
            for listener in self.listeners:
                listener(before, ramp)

    def _put(self, ramp: Ramp) -> None:
        before, self.ramp = self.ramp, ramp
        self.clock.moved(before, ramp)
        if ramp.run != before.run:
            self._evidence.begin(ramp)

    # --- in the store

    async def append(self, ramp: Ramp) -> StoredRamp:
        """Writes `ramp` as the next revision, without taking it.

        Raises:
            PlanConflict: another replica has moved the ramp, and this one follows.
            StoreUnavailable: the store does not answer.
        """
        try:
            return await self._store.append(ramp, self._times_of(ramp), after=self._revision)
        except StaleRamp as stale:
            self.adopt(stale.current)
            raise ramps.moved_elsewhere(stale.current.ramp) from None

    def _times_of(self, ramp: Ramp) -> StepTimes:
        """The times of the step once the ramp is `ramp`, which it may be already."""
        is_same = (ramp.state, ramp.step) == (self.ramp.state, self.ramp.step)
        return StepTimes(*self.clock.after(self.ramp, ramp), self.since if is_same else datetime.now(UTC))

    async def flush(self) -> None:
        """Writes a ramp that is in force here and not in the store yet. Raises StoreUnavailable."""
        async with self.writing:
            while self._dirty:
                ramp = self.ramp
                try:
                    stored = await self._store.append(ramp, self._times_of(ramp), after=self._revision)
                except StaleRamp as stale:
                    stored = stale.current
                else:
                    if self.ramp is not ramp:  # a rollback has come meanwhile, and is still to be written
                        self.written_behind(stored)
                        continue
                self.adopt(stored)
