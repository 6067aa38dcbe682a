"""The rollout flag while the service runs: read from memory on each call, changed by one door, remembered in a log."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Protocol

import structlog

from routing.errors import RollbackUnwritten, StaleRevision, StoreUnavailable
from routing.rollout.model import Change, Rollout, Source

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
    """The current revision and the only way to a new one. Listeners apply of each, at once and in order."""

    def __init__(self, log: RolloutLog, current: Rollout) -> None:
        self.current = current
        """What is in force; of a rollback that is not written yet, `revision` is the one that it was called at."""
        self.threshold = current.threshold
        """The first bucket that is not V2's; each call reads it."""
        self._log = log
        self._newest = current  # of the log
        self._dirty: Change | None = None  # a rollback, in force here alone
        self._writing = asyncio.Lock()
        self._listeners: list[Callable[[Rollout], None]] = []

    @property
    def is_written(self) -> bool:
        """Whether what is in force is a revision of the log, as it is but for the moments after a rollback."""
        return self._dirty is None

    def listen(self, listener: Callable[[Rollout], None]) -> None:
        """Calls `listener` with what has just come into force, and again when a rollback has got its revision."""
        self._listeners.append(listener)

    async def change(self, change: Change, *, expected: int | None = None) -> Rollout:
        """Brings `change` into force.

        Args:
            expected: the revision that the change is meant for; None is whatever is the newest.

        Raises:
            StaleRevision: the flag is not at `expected`, here or on another replica.
            StoreUnavailable: it could not be remembered, and is not in force.
        """
        await self.flush()
        async with self._writing:
            rollout = await self._append(change, expected)
            self.follow(rollout)
            return rollout

    async def rollback(self, by: str, reason: str | None, source: Source = Source.ROLLBACK) -> Rollout:
        """All traffic to V1, in force here before it is remembered: from now on the split sends nothing to V2.

        Raises:
            RollbackUnwritten: it is in force here, but not remembered yet, and so nowhere else; `flush` tries again.
        """
        self._dirty = Change(0, source, by, reason)
        self._come_into_force(
            replace(
                self.current,
                canary_basis_points=0,
                previous_basis_points=self.current.canary_basis_points,
                source=source,
                updated_by=by,
                reason=reason,
                updated_at=datetime.now(UTC),
            )
        )
        try:
            return await self.flush() or self.current
        except StoreUnavailable as error:
            _log.warning("rollback in force, but not written yet", by=by, reason=reason, error=str(error))
            raise RollbackUnwritten(str(error)) from error

    async def apply(self, change: Change) -> None:
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

    async def flush(self) -> Rollout | None:
        """Remembers a rollback that is not remembered yet; its revision, or None where there is none to remember.

        Raises:
            StoreUnavailable: it cannot be.
        """
        async with self._writing:
            if (change := self._dirty) is None:
                return None
            rollout = await self._append(change, None)
            if self._dirty is change:  # and not another one, which was called for meanwhile
                self._dirty = None
            self.follow(rollout)
            return rollout

    def follow(self, rollout: Rollout) -> None:
        """The log's newest revision comes into force, unless an unwritten rollback is: that will be newer still."""
        if rollout.revision > self._newest.revision:
            self._newest = rollout
        newest = self._newest
        if self._dirty is None and newest.revision > self.current.revision:
            self._come_into_force(newest)
            _log.info(
                "rollout changed",
                revision=newest.revision,
                canary_percent=newest.canary_percent,
                source=newest.source,
                by=newest.updated_by,
                reason=newest.reason,
            )

    async def history(self, *, limit: int, before: int | None = None) -> Sequence[Rollout]:
        """Revisions, newest first, older than `before`."""
        return await self._log.history(limit=limit, before=before)

    async def _append(self, change: Change, expected: int | None) -> Rollout:
        while True:
            try:
                return await self._log.append(change, after=self._newest.revision if expected is None else expected)
            except StaleRevision as stale:
                self.follow(stale.current)
                if expected is not None:
                    raise

    def _come_into_force(self, rollout: Rollout) -> None:
        self.current = rollout
        self.threshold = rollout.threshold
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
        await flag.apply(Change(canary_basis_points, Source.ENVIRONMENT, "start", "CANARY_PERCENT at the start"))
    return flag
