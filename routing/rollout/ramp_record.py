"""The ramp on this replica and in the store: one value, its revision, and what is still to be written."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

import structlog

from routing.rollout import ramp as ramps
from routing.rollout.ramp import Ramp, RampState
from routing.rollout.ramp_clock import RampClock
from routing.rollout.ramp_store import RampStore, StaleRamp, StoredRamp
from routing.rollout.run_evidence import RunEvidence

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

    def take_up(self, stored: StoredRamp) -> None:
        """Goes on with the ramp that the store has: nothing has moved since."""
        self._revision = stored.revision
        self._put(stored.ramp)
        self.since = stored.at
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
            return await self._store.append(ramp, after=self._revision)
        except StaleRamp as stale:
            self.adopt(stale.current)
            raise ramps.moved_elsewhere(stale.current.ramp) from None

    async def flush(self) -> None:
        """Writes a ramp that is in force here and not in the store yet. Raises StoreUnavailable."""
        async with self.writing:
            while self._dirty:
                ramp = self.ramp
                try:
                    stored = await self._store.append(ramp, after=self._revision)
                except StaleRamp as stale:
                    stored = stale.current
                else:
                    if self.ramp is not ramp:  # a rollback has come meanwhile, and is still to be written
                        self.written_behind(stored)
                        continue
                self.adopt(stored)
