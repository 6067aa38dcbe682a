"""Rollout logs whose delays and failures a test decides, and the order of changes that is put to real databases."""

import asyncio
from collections.abc import Sequence

from routing.errors import ChangeVoided, StaleRevision, StoreUnavailable
from routing.rollout.flag import RolloutFlag, open_flag
from routing.rollout.log import RolloutLog
from routing.rollout.model import Change, Rollout, Source, next_shadow, voids_earlier_changes

NINETY = Change(9000, Source.API, "alice", "ninety")
TEN = Change(1000, Source.API, "bob", "ten, after the rollback")


class MemoryLog:
    """A log in memory, as a database keeps it for all replicas."""

    def __init__(self) -> None:
        self.revisions: list[Rollout] = []
        self.seen: dict[str, str] = {}

    async def latest(self) -> Rollout | None:
        return self.revisions[-1] if self.revisions else None

    async def append(self, change: Change, *, after: int) -> Rollout:
        latest = await self.latest()
        if latest is not None and latest.revision != after:
            raise StaleRevision(latest)
        is_rollback = voids_earlier_changes(change.canary_basis_points, change.source)
        rollback_revision = after + 1 if is_rollback else latest.rollback_revision if latest else 0
        previous = latest.canary_basis_points if latest else None
        self.revisions.append(
            Rollout(
                after + 1,
                change.canary_basis_points,
                previous,
                change.source,
                change.by,
                change.reason,
                rollback_revision=rollback_revision,
                shadow_basis_points=next_shadow(change, latest),
                v1_pool=change.v1_pool,
                rotation_revision=after + 1 if change.v1_pool else latest.rotation_revision if latest else 0,
            )
        )
        return self.revisions[-1]

    async def history(self, *, limit: int, before: int | None = None) -> Sequence[Rollout]:
        older = [one for one in reversed(self.revisions) if before is None or one.revision < before]
        return older[:limit]

    async def rotation(self) -> Rollout | None:
        return next((one for one in reversed(self.revisions) if one.v1_pool is not None), None)

    async def last_seen(self, source: str) -> str | None:
        return self.seen.get(source)

    async def saw(self, source: str, value: str) -> None:
        self.seen[source] = value


class Delays:
    """Every step of a log on its way to the database and back, which goes on when the test says so."""

    def __init__(self) -> None:
        self.waiting: list[asyncio.Future[None]] = []
        self.is_free = False
        """True if steps wait no more."""

    async def step(self) -> None:
        """Waits for `go_on`."""
        if not self.is_free:
            waiting = asyncio.get_running_loop().create_future()
            self.waiting.append(waiting)
            await waiting

    def go_on(self, number: int, *, fails: bool = False) -> None:
        """Lets one step go on, or fail: on its way back that is an answer that is lost."""
        if self.waiting:
            one = self.waiting.pop(number % len(self.waiting))
            if fails:
                one.set_exception(StoreUnavailable("the database does not answer"))
            else:
                one.set_result(None)

    def free(self) -> None:
        """Lets everything go on from now on."""
        self.is_free = True
        while self.waiting:
            self.go_on(0)


class DelayedLog:
    """One replica's way to a shared log."""

    def __init__(self, log: RolloutLog, delays: Delays) -> None:
        self._log = log
        self._delays = delays

    async def latest(self) -> Rollout | None:
        await self._delays.step()
        latest = await self._log.latest()
        await self._delays.step()
        return latest

    async def append(self, change: Change, *, after: int) -> Rollout:
        await self._delays.step()
        try:
            return await self._log.append(change, after=after)
        finally:
            await self._delays.step()

    async def history(self, *, limit: int, before: int | None = None) -> Sequence[Rollout]:
        return await self._log.history(limit=limit, before=before)

    async def rotation(self) -> Rollout | None:
        return await self._log.rotation()

    async def last_seen(self, source: str) -> str | None:
        await self._delays.step()
        seen = await self._log.last_seen(source)
        await self._delays.step()
        return seen

    async def saw(self, source: str, value: str) -> None:
        await self._delays.step()
        await self._log.saw(source, value)


async def rise_before_a_rollback(one: RolloutLog, other: RolloutLog, *, is_elsewhere: bool, is_overtaken: bool) -> None:
    """Puts changes to 90 % that hang, then a rollback, then perhaps a change to 10 %, to two replicas of one database.

    The rollback comes to the replica where the changes hang or to the other; 90 % must not be in force in the end.
    """
    delays = Delays()
    delays.is_free = True
    here = await open_flag(DelayedLog(one, delays), 5000)
    there = await open_flag(other, None)
    delays.is_free = False
    patches = [asyncio.ensure_future(here.change(NINETY)) for _ in range(2)]
    file = asyncio.ensure_future(here.apply(Change(9000, Source.FILE, "rollout.yaml")))
    await asyncio.sleep(0)
    assert delays.waiting
    rolled_back = there if is_elsewhere else here
    rollback = asyncio.ensure_future(rolled_back.rollback("carol", "enough"))
    if is_elsewhere:
        await rollback
        if is_overtaken:
            await there.change(TEN)
    else:
        await asyncio.sleep(0)
        assert here.threshold == 0
    delays.free()
    outcomes = await asyncio.gather(*patches, file, rollback, return_exceptions=True)
    assert isinstance(outcomes[1], ChangeVoided)
    await _all_follow(one, here, there)
    expected = 1000 if is_overtaken else 0
    assert [flag.current.canary_basis_points for flag in (here, there)] == [expected, expected]
    history = await one.history(limit=100)
    written = [(revision.source, revision.canary_basis_points) for revision in reversed(history)]
    assert (str(Source.API), 9000) not in written[[source for source, _ in written].index("rollback") :]
    assert await one.last_seen(Source.FILE) == "9000"  # void, and so not a change the next time either
    await here.apply(Change(9000, Source.FILE, "rollout.yaml"))
    assert here.current.canary_basis_points == expected


async def _all_follow(log: RolloutLog, *flags: RolloutFlag) -> None:
    latest = await log.latest()
    assert latest is not None
    for flag in flags:
        flag.follow(latest)
