"""The rollout flag while the service runs: read from memory on each call, changed by one door, remembered in a log."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Protocol

import structlog

from routing.errors import StaleRevision
from routing.rollout_model import Change, Rollout, Source

_log = structlog.stdlib.get_logger("poolshift.rollout")


class RolloutLog(Protocol):
    """Where revisions are kept, for ever and in order, by every replica."""

    async def latest(self) -> Rollout | None:
        """The newest revision; None where there is none yet."""
        ...

    async def append(self, change: Change, *, after: int) -> Rollout:
        """Makes `change` the revision that follows `after`.

        Raises:
            StaleRevision: `after` is not the newest.
            StoreUnavailable: it could not be written.
        """
        ...

    async def history(self, *, limit: int, before: int | None = None) -> Sequence[Rollout]:
        """Revisions, newest first, older than `before`."""
        ...

    async def last_seen(self, source: Source) -> str | None:
        """What a source said when it was last looked at."""
        ...

    async def saw(self, source: Source, value: str) -> None:
        """Notes what a source says."""
        ...


class RolloutFlag:
    """The current revision and the only way to a new one. Listeners hear of each, at once and in order."""

    def __init__(self, log: RolloutLog, current: Rollout) -> None:
        self.current = current
        self.threshold = current.threshold
        """The first bucket that is not V2's; each call reads it."""
        self._log = log
        self._held: Change | None = None
        self._listeners: list[Callable[[Rollout], None]] = []

    def listen(self, listener: Callable[[Rollout], None]) -> None:
        """Calls `listener` with each new revision, right after it has come into force."""
        self._listeners.append(listener)

    async def change(self, change: Change, *, expected: int | None = None) -> Rollout:
        """Brings `change` into force.

        Args:
            expected: the revision that the change is meant for; None is whatever is the newest.

        Raises:
            StaleRevision: the flag is not at `expected`, here or on another replica.
            StoreUnavailable: it could not be remembered, and is not in force.
        """
        held = self._held
        while True:
            after = self.current.revision if expected is None else expected
            try:
                rollout = await self._log.append(change, after=after)
            except StaleRevision as stale:
                self.follow(stale.current)
                if expected is not None:
                    raise
            else:
                if self._held is held:
                    self._held = None
                self.follow(rollout)
                return rollout

    async def rollback(self, by: str, reason: str | None) -> Rollout:
        """All traffic to V1, in force here before it is remembered: from now on the split sends nothing to V2.

        Raises:
            StoreUnavailable: it is in force here, but not remembered yet, and so nowhere else; `settle` tries again.
        """
        self._held = Change(0, Source.ROLLBACK, by, reason)
        self._come_into_force(
            replace(
                self.current,
                canary_basis_points=0,
                previous_basis_points=self.current.canary_basis_points,
                source=Source.ROLLBACK,
                updated_by=by,
                reason=reason,
                updated_at=datetime.now(UTC),
            )
        )
        return await self.change(self._held)

    async def hear(self, change: Change) -> None:
        """Takes what a source that only ever states its wish (environment, file, provider) states now.

        It counts as a change only where it differs from what that source stated before, or, for a source that was never
        heard, from what is in force: so neither a restart nor a second look undoes anybody's change.

        Raises:
            StoreUnavailable: it could not be remembered, and is not in force.
        """
        says = str(change.canary_basis_points)
        while (said := await self._log.last_seen(change.source)) != says:
            newest = self.current
            is_in_force = newest.canary_basis_points == change.canary_basis_points
            # What another replica has just heard from the same source is no second change.
            if not is_in_force or (said is not None and newest.source != change.source):
                try:
                    await self.change(change, expected=newest.revision)
                except StaleRevision:
                    continue
            await self._log.saw(change.source, says)

    async def settle(self) -> None:
        """Remembers a rollback that could not be remembered when it was called for.

        Raises:
            StoreUnavailable: still not.
        """
        if self._held is not None:
            await self.change(self._held)

    def follow(self, rollout: Rollout) -> None:
        """A revision of the log comes into force here, unless a newer one already has, or a rollback is held."""
        if rollout.revision <= self.current.revision:
            return
        if self._held is not None:
            self.current = replace(self.current, revision=rollout.revision)
        else:
            self._come_into_force(rollout)

    async def history(self, *, limit: int, before: int | None = None) -> Sequence[Rollout]:
        """Revisions, newest first, older than `before`."""
        return await self._log.history(limit=limit, before=before)

    def _come_into_force(self, rollout: Rollout) -> None:
        self.current = rollout
        self.threshold = rollout.threshold
        _log.info(
            "rollout changed",
            revision=rollout.revision,
            canary_percent=rollout.canary_percent,
            source=rollout.source,
            by=rollout.updated_by,
            reason=rollout.reason,
        )
        for listener in self._listeners:
            listener(rollout)


async def open_flag(log: RolloutLog, canary_basis_points: int | None) -> RolloutFlag:
    """The flag as the last run left it.

    `canary_basis_points` is what the environment says (`CANARY_PERCENT`), in hundredths of a percent; None is nothing.

    Raises:
        StoreUnavailable: the log cannot be read.
    """
    latest = await log.latest()
    if latest is None:
        first = Change(canary_basis_points or 0, Source.DEFAULT, "start")
        if canary_basis_points is not None:
            first = replace(first, source=Source.ENVIRONMENT, reason="CANARY_PERCENT at the first start")
        try:
            latest = await log.append(first, after=0)
        except StaleRevision as stale:  # another replica started at the same moment
            latest = stale.current
    flag = RolloutFlag(log, latest)
    if canary_basis_points is not None:
        await flag.hear(Change(canary_basis_points, Source.ENVIRONMENT, "start", "CANARY_PERCENT at the start"))
    return flag
