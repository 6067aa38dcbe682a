"""The rollout flag while the service runs: read from memory on each call, changed by one door, remembered in a log.

A rollback voids every change that was asked for before it. Each rollback, of this replica (when it is asked for) or of
another (when this replica learns of it), begins a new epoch. A change keeps the epoch in which it was asked for, and is
refused if another has begun before it is written. The log's append is a compare-and-set on the newest revision, and
each revision that a replica reads names the newest rollback before it. So no replica can append a change without
having learned of all rollbacks in the log.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

import structlog

from routing.errors import ChangeVoided, RollbackUnwritten, StaleRevision
from routing.rollout.log import Append, RolloutLog
from routing.rollout.model import Change, Rollout, Source, storable
from routing.rollout.news import News

HEARD_S: Final = 1.0
"""Time that another replica of the machine has for writing its rollback, in seconds, before this one writes it too."""

_log = structlog.stdlib.get_logger("poolshift.rollout")


class RolloutFlag:
    """The current revision and the only way to a new one. Listeners are called at once and in order."""

    def __init__(self, log: RolloutLog, current: Rollout) -> None:
        self.current = current
        """The revision in force. A rollback that is not written yet has the revision at which it was asked for."""
        self.threshold = current.threshold
        """The first bucket that belongs to V1; each call reads it."""
        self.is_cut_off = False
        """True while everything goes to V1 because this replica may have missed a revision."""
        self.epoch = 0
        """The number of rollbacks that this replica has learned of while it runs."""
        self.rotated_to = current.rotation_revision
        """The newest rotation that this replica's pools have followed. A newer one waits for them (`rotated`)."""
        self._log = log
        self._newest = current  # of the log
        self._dirty: Change | None = None  # a rollback, in force on this machine alone
        self._heard_after: int | None = None  # of a rollback that another replica writes: the newest one before it
        self._heard_at = 0.0
        self._stated: dict[str, tuple[str, int]] = {}
        self._writing = asyncio.Lock()
        self._listeners: list[Callable[[Rollout], None]] = []
        self._rotation_listeners: list[Callable[[], None]] = []
        self.tell: Callable[[News], None] = lambda _: None
        """Tells the other replicas of this machine what they must act on at once."""

    @property
    def is_written(self) -> bool:
        """True if the log has what is in force, which is so except for the moments after a rollback."""
        return self._dirty is None

    def listen(self, listener: Callable[[Rollout], None]) -> None:
        """Calls `listener` with what has just come into force, and again when a rollback has got its revision."""
        self._listeners.append(listener)

    def listen_to_rotations(self, listener: Callable[[], None]) -> None:
        """Calls `listener` when a rotation waits until this replica's pools have followed it."""
        self._rotation_listeners.append(listener)

    def rotated(self, revision: int) -> None:
        """Brings into force what waited for the rotation of `revision`, which the pools have followed."""
        self.rotated_to = max(self.rotated_to, revision)
        self.follow(self._newest)

    async def change(
        self,
        change: Change,
        *,
        expected: int | None = None,
        asked_in: int | None = None,
        append: Append | None = None,
    ) -> Rollout:
        """Brings `change` into force.

        Args:
            change: the percentage and its reason.
            expected: the revision that the change is meant for; None is whatever is the newest.
            asked_in: the epoch in which the change was asked for; None is the current one.
            append: writes the change, and other things with it; None is the log's `append`.

        Raises:
            StaleRevision: the flag is not at `expected`, here or on another replica.
            ChangeVoided: a rollback was asked for after the change.
            StoreUnavailable: the change could not be remembered, and is not in force.
        """
        epoch = self.epoch if asked_in is None else asked_in
        await self.flush()
        async with self._writing:
            rollout = await self._append(change, expected, epoch, append or self._log.append)
            self.follow(rollout)
            self.tell(News(rollout))
            return rollout

    async def rollback(self, by: str, reason: str | None, source: Source = Source.ROLLBACK) -> Rollout:
        """Sends all traffic to V1. The rollback is in force here before it is written, and voids all earlier changes.

        Raises:
            RollbackUnwritten: it is in force here, but not written yet, and so nowhere else; `flush` tries again.
        """
        by, reason = _storable(by), None if reason is None else _storable(reason)
        change = Change(0, source, by, reason)
        self.tell(News(change, self._newest.rollback_revision))
        self._roll_back(change)
        self._heard_after = None
        try:
            return await self.flush() or self.current
        except Exception as error:  # whatever the store raises, the caller must know that the rollback is in force
            _log.warning("rollback in force, but not written yet", by=by, reason=reason, error=str(error))
            raise RollbackUnwritten(str(error)) from error

    async def apply(self, change: Change, *, asked_in: int | None = None) -> None:
        """Applies the value of a source that states its wish again and again (environment, file, provider).

        The value counts as a change only if it differs from what that source stated before, or, for a source that was
        never applied, from what is in force. So neither a restart nor a second look undoes anybody's change. A value
        that was first stated before a rollback is void, however often it is stated afterwards.

        The share of shadow calls, if the change has one, is a wish of its own: neither of the two restates the other.

        Raises:
            StoreUnavailable: the value could not be remembered, and is not in force.
        """
        await self._apply_percent(replace(change, shadow_basis_points=None), asked_in)
        if change.shadow_basis_points is not None:
            await self.apply_shadow(change, asked_in=asked_in)

    async def _apply_percent(self, change: Change, asked_in: int | None) -> None:
        says = str(change.canary_basis_points)
        epoch = self._first_stated_in(change.source, says, asked_in)
        while (said := await self._log.last_seen(change.source)) != says:
            newest = self.current
            is_in_force = newest.canary_basis_points == change.canary_basis_points
            # A value that another replica has just applied from the same source is not a second change.
            if not is_in_force or (said is not None and newest.source != change.source):
                try:
                    await self.change(change, expected=newest.revision, asked_in=epoch)
                except ChangeVoided as error:
                    _tell_void(change, error)
                except StaleRevision:
                    continue
            await self._log.saw(change.source, says)

    async def apply_shadow(self, change: Change, *, asked_in: int | None = None) -> None:
        """Applies the share of shadow calls that a source states, whatever it says of the percentage.

        Raises:
            StoreUnavailable: the share could not be remembered, and is not in force.
        """
        points, source = change.shadow_basis_points, f"{change.source}_shadow"
        assert points is not None
        says = str(points)
        epoch = self._first_stated_in(source, says, asked_in)
        while await self._log.last_seen(source) != says:
            newest = self.current
            if newest.shadow_basis_points != points:
                asked = replace(change, canary_basis_points=newest.canary_basis_points)
                try:
                    await self.change(asked, expected=newest.revision, asked_in=epoch)
                except ChangeVoided as error:
                    _tell_void(change, error)
                except StaleRevision:
                    continue
            await self._log.saw(source, says)

    async def flush(self) -> Rollout | None:
        """Writes a rollback that is not written yet; returns its revision, or None if there is nothing to write.

        Raises:
            StoreUnavailable: the rollback cannot be written now.
        """
        async with self._writing:
            if (change := self._dirty) is None:
                return None
            rollout = await self._append(change, None, None, self._log.append)
            if self._dirty is change:  # and not another rollback, which was asked for meanwhile
                self._dirty = None
            self._follow(rollout, is_own_rollback=True)
            self.tell(News(rollout))
            return rollout

    async def flush_late(self) -> None:
        """Writes a rollback that is still not written, as `flush`. Another replica's own has time until `HEARD_S`."""
        if self._heard_after is None or time.monotonic() - self._heard_at >= HEARD_S:
            await self.flush()

    def follow(self, rollout: Rollout) -> None:
        """Brings the log's newest revision into force, unless a rollback is still to be written: that will be newer."""
        self._follow(rollout, is_own_rollback=False)

    def hear(self, news: News) -> None:
        """Acts on what another replica of this machine has told.

        A rollback is in force here before that replica has written it. It is to be written by this one, too, unless a
        newer rollback than those which that replica knew appears in the log first.
        """
        if isinstance(news.what, Rollout):
            self.follow(news.what)
        elif self._newest.rollback_revision <= news.after:
            self._roll_back(news.what)
            self._heard_after, self._heard_at = news.after, time.monotonic()

    def _roll_back(self, change: Change) -> None:
        self.epoch += 1
        self._dirty = change
        self._come_into_force(
            replace(
                self.current,
                canary_basis_points=0,
                previous_basis_points=self.current.canary_basis_points,
                shadow_basis_points=0,
                source=change.source,
                updated_by=change.by,
                reason=change.reason,
                updated_at=datetime.now(UTC),
            )
        )

    def cut_off(self, staleness_s: float) -> None:
        """Sends everything to V1 from now on: this replica may have missed a rollback."""
        self.is_cut_off = True
        self._come_into_force(self.current)
        _log.error("cut off from the rollout; everything goes to V1", staleness_s=round(staleness_s, 1))

    def reconnect(self) -> None:
        """Goes back to the log's newest revision, which this replica knows again."""
        self.is_cut_off = False
        self._come_into_force(self.current)
        _log.info("caught up with the rollout", canary_percent=self.current.canary_percent)

    async def history(self, *, limit: int, before: int | None = None) -> Sequence[Rollout]:
        """Reads revisions older than `before`, the newest first."""
        return await self._log.history(limit=limit, before=before)

    def _first_stated_in(self, source: str, says: str, asked_in: int | None) -> int:
        """The epoch in which a source first stated the value that it states now."""
        stated = self._stated.get(source)
        if stated is None or stated[0] != says:
            stated = self._stated[source] = says, self.epoch if asked_in is None else asked_in
        return stated[1]

    async def _append(self, change: Change, expected: int | None, epoch: int | None, append: Append) -> Rollout:
        while True:
            self._refuse_if_void(epoch)
            try:
                return await append(change, after=self._newest.revision if expected is None else expected)
            except StaleRevision as stale:
                self.follow(stale.current)
                self._refuse_if_void(epoch)
                if expected is not None:
                    raise

    def _refuse_if_void(self, epoch: int | None) -> None:
        if epoch is not None and epoch != self.epoch:
            raise ChangeVoided(self.current)

    def _follow(self, rollout: Rollout, *, is_own_rollback: bool) -> None:
        if rollout.revision > self._newest.revision:
            if rollout.rollback_revision > self._newest.rollback_revision and not is_own_rollback:
                self.epoch += 1
            self._newest = rollout
            if self._heard_after is not None and rollout.rollback_revision > self._heard_after:
                self._dirty = self._heard_after = None  # the other replica has written it
        newest = self._newest
        if newest.rotation_revision > max(self.rotated_to, newest.rollback_revision):
            for listener in self._rotation_listeners:
                listener()
            return  # until then the new V1 is where V2 is, and a rollback does not wait
        if self._dirty is None and newest.revision > self.current.revision:
            self._come_into_force(newest)
            _log.info(
                "rollout changed",
                revision=newest.revision,
                canary_percent=newest.canary_percent,
                shadow_percent=newest.shadow_percent,
                source=newest.source,
                by=newest.updated_by,
                reason=newest.reason,
            )

    def _come_into_force(self, rollout: Rollout) -> None:
        self.current = rollout
        effective = replace(rollout, canary_basis_points=0, shadow_basis_points=0) if self.is_cut_off else rollout
        self.threshold = effective.threshold
        for listener in self._listeners:
            listener(effective)


def _storable(text: str) -> str:
    clean = storable(text)
    if clean != text:
        _log.warning("characters that cannot be stored were replaced in a change", text=clean)
    return clean


async def open_flag(log: RolloutLog, canary_basis_points: int | None) -> RolloutFlag:
    """Opens the flag as the last run left it.

    `canary_basis_points` is the environment's value (`CANARY_PERCENT`), in hundredths of a percent; None is no value.

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
        if flag.current.canary_basis_points != canary_basis_points:
            _tell_not_applied(flag.current, canary_basis_points / 100)
    return flag


def _tell_void(change: Change, error: ChangeVoided) -> None:
    _log.warning("a source's change is void", source=change.source, by=change.by, reason=str(error))


def _tell_not_applied(current: Rollout, percent: float) -> None:
    _log.warning(
        "CANARY_PERCENT is not applied: the rollout was changed since the start that first had this value",
        CANARY_PERCENT=percent,
        canary_percent=current.canary_percent,
        revision=current.revision,
        source=current.source,
        by=current.updated_by,
        to_apply=f"poolshift rollout set {percent:.10g}",
    )
