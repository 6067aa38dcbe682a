"""The flag on a real database that can be taken away from it: what is in force, what is written, and in which order."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import structlog
from sqlalchemy import update

from routing.errors import ChangeVoided, RollbackUnwritten, StaleRevision, StoreUnavailable
from routing.rollout.flag import RolloutFlag, open_flag
from routing.rollout.model import Change, Rollout, Source
from routing.rollout.news import News, decode_news, encode_news
from store.database import Database
from store.rollout_log import SqlRolloutLog
from store.tables import rollout_revisions

pytestmark = pytest.mark.anyio

HALF = Change(5000, Source.API, "alice", "half")
FULL = Change(10_000, Source.API, "bob", "full")


class Disk:
    """The database's place, which can be taken away."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._elsewhere = path.with_name("elsewhere")

    def take_away(self) -> None:
        self.path.rename(self._elsewhere)

    def put_back(self) -> None:
        self._elsewhere.rename(self.path)


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path / "test.db")


@pytest.fixture
async def log(disk: Disk) -> AsyncIterator[SqlRolloutLog]:
    database = Database(f"sqlite+aiosqlite:///{disk.path}")
    await database.migrate()
    yield SqlRolloutLog(database)
    await database.aclose()


@pytest.fixture
async def flag(log: SqlRolloutLog) -> RolloutFlag:
    """At 50 %, revision 2."""
    flag = await open_flag(log, None)
    await flag.change(HALF)
    return flag


async def written(log: SqlRolloutLog) -> list[tuple[int, str, int]]:
    """The history, the oldest first: revision, source, percentage in basis points."""
    revisions = reversed(await log.history(limit=100))
    return [(one.revision, str(one.source), one.canary_basis_points) for one in revisions]


FIRST = [(1, "default", 0), (2, "api", 5000)]


async def test_a_rollback_is_one_change(flag: RolloutFlag, log: SqlRolloutLog) -> None:
    """One line in the log, with the revision that it has; also where the bookkeeping looks after it at that moment."""
    with structlog.testing.capture_logs() as logged:
        rollout, *_ = await asyncio.gather(flag.rollback("alice", "enough"), flag.flush(), flag.flush())
    assert (rollout.revision, rollout.canary_basis_points) == (3, 0)
    assert flag.current is rollout
    assert await written(log) == [*FIRST, (3, "rollback", 0)]
    assert [(line["event"], line["revision"]) for line in logged] == [("rollout changed", 3)]


async def test_a_rollback_that_cannot_be_written_yet(flag: RolloutFlag, log: SqlRolloutLog, disk: Disk) -> None:
    """The rollback is in force at once and gets its own revision later; its one log line has that revision."""
    heard: list[Rollout] = []
    flag.listen(heard.append)
    disk.take_away()
    with structlog.testing.capture_logs() as logged:
        with pytest.raises(RollbackUnwritten, match="the rollback is in force on this replica"):
            await flag.rollback("alice", "enough")
        assert (flag.threshold, flag.current.revision, flag.is_written) == (0, 2, False)
        with pytest.raises(StoreUnavailable):
            await flag.flush()
        disk.put_back()
        await flag.flush()
    assert (flag.current.revision, flag.current.source, flag.is_written) == (3, Source.ROLLBACK, True)
    assert await written(log) == [*FIRST, (3, "rollback", 0)]
    assert [(one.canary_basis_points, one.revision) for one in heard] == [(0, 2), (0, 3)]
    events = [(line["event"], line.get("revision")) for line in logged]
    assert events == [("rollback in force, but not written yet", None), ("rollout changed", 3)]


async def test_no_change_is_meant_for_an_unwritten_rollback(flag: RolloutFlag, log: SqlRolloutLog, disk: Disk) -> None:
    """Whoever has seen revision 2 has not seen the rollback: it is written first, and their change is stale."""
    disk.take_away()
    with pytest.raises(RollbackUnwritten):
        await flag.rollback("alice", "enough")
    disk.put_back()
    with pytest.raises(StaleRevision) as stale:
        await flag.change(FULL, expected=2)
    assert stale.value.current.revision == 3
    assert await written(log) == [*FIRST, (3, "rollback", 0)]
    await flag.change(FULL, expected=3)
    assert (flag.current.revision, flag.current.canary_basis_points) == (4, 10_000)


async def test_a_change_from_elsewhere_does_not_undo_it(flag: RolloutFlag, log: SqlRolloutLog, disk: Disk) -> None:
    """While it is unwritten nothing else comes into force; then it is the newest."""
    elsewhere = await open_flag(log, None)
    disk.take_away()
    with pytest.raises(RollbackUnwritten):
        await flag.rollback("alice", "enough")
    disk.put_back()
    flag.follow(await elsewhere.change(FULL))
    assert (flag.threshold, flag.is_written) == (0, False)
    await flag.flush()
    assert await written(log) == [*FIRST, (3, "api", 10_000), (4, "rollback", 0)]
    assert (flag.current.revision, flag.current.canary_basis_points) == (4, 0)


@pytest.mark.parametrize("is_overtaken", [False, True])
async def test_the_newest_is_in_force_after_a_rollback(log: SqlRolloutLog, *, is_overtaken: bool) -> None:
    """Also where this replica hears of its own rollback, or of a change that followed it, before its write returns."""

    class Overheard(SqlRolloutLog):
        async def append(self, change: Change, *, after: int) -> Rollout:
            rollout = await super().append(change, after=after)
            if change.source is Source.ROLLBACK:
                replica.follow(rollout)
                if is_overtaken:
                    replica.follow(await super().append(FULL, after=rollout.revision))
            return rollout

    replica = await open_flag(Overheard(log._database), 5000)
    await replica.rollback("alice", "enough")
    newest = await log.latest()
    assert newest is not None
    assert (replica.current, replica.threshold, replica.is_written) == (newest, newest.threshold, True)
    assert newest.revision == (3 if is_overtaken else 2)


async def test_a_stale_change_has_the_newest_followed(flag: RolloutFlag, log: SqlRolloutLog) -> None:
    """A stale change makes the replica follow the log's newest rollout."""
    newest = await (await open_flag(log, None)).change(FULL)
    with pytest.raises(StaleRevision):
        await flag.change(HALF, expected=2)
    assert flag.current == newest
    for unheard_of in (0, 99):
        with pytest.raises(StaleRevision):
            await flag.change(HALF, expected=unheard_of)
    assert flag.current == newest


async def test_every_way_back_ends_the_shadow(flag: RolloutFlag, log: SqlRolloutLog) -> None:
    """A change of the percentage leaves the shadow as it is; a rollback sets it to 0, at once and in the history."""
    await flag.change(Change(5000, Source.API, "alice", None, 2500))
    await flag.change(FULL)
    assert flag.current.shadow_percent == 25
    effective: list[Rollout] = []
    flag.listen(effective.append)
    flag.cut_off(3.0)
    assert effective[-1].shadow_basis_points == 0
    flag.reconnect()
    await flag.rollback("alice", "enough")
    assert [one.shadow_basis_points for one in effective[-2:]] == [0, 0]
    assert [one.shadow_basis_points for one in await log.history(limit=3)] == [0, 2500, 2500]


async def test_the_environments_shadow_counts_when_it_changes(flag: RolloutFlag) -> None:
    ten = Change(0, Source.ENVIRONMENT, "start", "at the start", 1000)
    await flag.apply_shadow(ten)
    assert (flag.current.shadow_percent, flag.current.canary_percent) == (10, 50)
    await flag.change(Change(5000, Source.API, "alice", None, 0))
    await flag.apply_shadow(ten)
    assert flag.current.shadow_percent == 0
    await flag.apply_shadow(replace(ten, shadow_basis_points=2000))
    assert flag.current.shadow_percent == 20


async def test_percentage_and_shadow_of_a_file_do_not_restate_each_other(flag: RolloutFlag) -> None:
    """A file that changes one of the two leaves what a person has made of the other; a rollback voids both."""
    stated = Change(500, Source.FILE, "rollout.yaml", None, 1000)
    await flag.apply(stated)
    assert (flag.current.canary_percent, flag.current.shadow_percent) == (5, 10)
    await flag.change(Change(2000, Source.API, "alice"))
    await flag.apply(replace(stated, shadow_basis_points=3000))
    assert (flag.current.canary_percent, flag.current.shadow_percent) == (20, 30)
    epoch = flag.epoch
    await flag.rollback("alice", "enough")
    await flag.apply(replace(stated, canary_basis_points=600, shadow_basis_points=4000), asked_in=epoch)
    assert (flag.current.canary_percent, flag.current.shadow_percent) == (0, 0)
    await flag.apply(replace(stated, canary_basis_points=700, shadow_basis_points=None))
    assert (flag.current.canary_percent, flag.current.shadow_percent) == (7, 0)


async def test_a_revision_of_an_older_replica_has_no_shadow(flag: RolloutFlag, log: SqlRolloutLog) -> None:
    """An older replica writes no shadow with its changes, one of which may be a rollback of a newer kind."""
    await flag.change(Change(5000, Source.API, "alice", None, 2500))
    async with log._database.transaction() as connection:
        await connection.execute(update(rollout_revisions).values(shadow_basis_points=None))
    newest = await log.latest()
    assert newest is not None
    assert newest.shadow_basis_points == 0


# --- what the other replicas of the machine tell


class Neighbours:
    """Two flags of one machine on one log. Each tells the other through the bytes of its news."""

    def __init__(self, log: SqlRolloutLog, ours: RolloutFlag, theirs: RolloutFlag) -> None:
        self.log = log
        self.ours = ours
        self.theirs = theirs
        ours.tell = lambda news: theirs.hear(decode_news(encode_news(news)))
        theirs.tell = lambda news: ours.hear(decode_news(encode_news(news)))


@pytest.fixture
async def neighbours(log: SqlRolloutLog, flag: RolloutFlag) -> Neighbours:
    """Both at 50 %, revision 2."""
    return Neighbours(log, flag, await open_flag(log, None))


async def test_a_neighbours_change_is_in_force_here(neighbours: Neighbours) -> None:
    """With all that the log says of it."""
    changed = await neighbours.theirs.change(FULL)
    assert neighbours.ours.current == changed
    assert neighbours.ours.current.rollback_revision == changed.rollback_revision
    assert neighbours.ours.is_written


async def test_a_neighbours_rollback_is_in_force_before_it_is_written(neighbours: Neighbours, disk: Disk) -> None:
    """Without a question to the database. Once that is back, one of both writes it, and the other finds it there."""
    disk.take_away()
    with pytest.raises(RollbackUnwritten):
        await neighbours.theirs.rollback("alice", "enough")
    assert (neighbours.ours.threshold, neighbours.ours.is_written) == (0, False)
    disk.put_back()
    await neighbours.theirs.flush()
    assert neighbours.ours.is_written
    assert neighbours.ours.current == neighbours.theirs.current
    assert await written(neighbours.log) == [*FIRST, (3, "rollback", 0)]


async def test_a_rollback_whose_replica_dies_is_written_by_another(
    neighbours: Neighbours, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second waits for a while, since the first has most likely written it by then."""
    disk.take_away()
    with pytest.raises(RollbackUnwritten):
        await neighbours.theirs.rollback("alice", "enough")
    disk.put_back()
    await neighbours.ours.flush_late()
    assert await written(neighbours.log) == FIRST
    monkeypatch.setattr("routing.rollout.flag.HEARD_S", 0.0)
    await neighbours.ours.flush_late()
    assert await written(neighbours.log) == [*FIRST, (3, "rollback", 0)]


async def test_a_rollback_that_is_heard_late_is_no_second_one(neighbours: Neighbours) -> None:
    """The rollback's revision came first, by the database, and a change after it stays in force."""
    late: list[News] = []
    neighbours.theirs.tell = late.append
    rollback = await neighbours.theirs.rollback("alice", "enough")
    neighbours.ours.follow(rollback)
    half = await neighbours.ours.change(HALF)
    for news in late:
        neighbours.ours.hear(news)
    assert neighbours.ours.current == half
    assert neighbours.ours.is_written


async def test_a_change_that_was_asked_for_before_a_neighbours_rollback_is_void(neighbours: Neighbours) -> None:
    """As it would be on one replica."""
    asked_in = neighbours.ours.epoch
    await neighbours.theirs.rollback("alice", "enough")
    with pytest.raises(ChangeVoided):
        await neighbours.ours.change(FULL, asked_in=asked_in)
