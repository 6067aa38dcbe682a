"""A SQLite file that replicas share, as one of them sees it: transactions, announcements, and those who follow them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
from sqlalchemy import text

import store.follower
from common.background import Background
from routing.errors import StoreUnavailable
from store.database import Database, claim_for_replicas
from store.follower import Follower
from store.session_store import SqlSessionStore
from store.sqlite import engines
from store.sqlite.share import SqliteShare
from tests.support.database import copy_migrated, write_locked

pytestmark = pytest.mark.anyio

SLOW = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 300000) SELECT count(*) FROM n"
"""A statement that takes about a tenth of a second."""
NEW_SESSION = (
    "INSERT INTO sessions (id, created_at, last_seen_at, execution_count) VALUES ('s', '2026-01-01', '2026-01-01', 0)"
)


@pytest.fixture
def share(tmp_path: Path) -> SqliteShare:
    """The claim on a migrated file."""
    copy_migrated(tmp_path / "test.db")
    share = claim_for_replicas(f"sqlite+aiosqlite:///{tmp_path / 'test.db'}")
    assert share is not None
    return share


@pytest.fixture
async def shared(share: SqliteShare) -> AsyncIterator[Database]:
    """A replica's way to the file."""
    database = Database(f"sqlite+aiosqlite:///{share.lock.path}", share=share)
    await database.migrate()
    yield database
    await database.aclose()
    share.close()


async def announce(database: Database, ref: str, kind: str = "session_begun") -> None:
    async with database.transaction() as connection:
        await database.announce(connection, kind, ref)


async def test_what_reads_waits_for_no_writer(shared: Database) -> None:
    """A reader sees the last state that was committed, and the next reader the next one."""
    sessions = SqlSessionStore(shared)
    async with shared.transaction() as connection:
        await connection.execute(text(NEW_SESSION))
        async with shared.reading() as reader:
            count = text("SELECT count(*) FROM sessions")
            assert (await reader.execute(count)).scalar_one() == 0
            await asyncio.sleep(0)
            assert (await reader.execute(count)).scalar_one() == 0
    assert (await sessions.owners()) == {"s": None}


async def test_what_reads_cannot_write(shared: Database) -> None:
    """Nothing that two writers would do to each other can happen to it."""
    with pytest.raises(StoreUnavailable, match="attempt to write a readonly database"):
        async with shared.reading() as connection:
            await connection.execute(text("DELETE FROM changes"))


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite waits for no lock for long."""
    monkeypatch.setattr(engines, "_BUSY_TIMEOUT_MS", 100)


@pytest.mark.usefixtures("impatient")
async def test_a_writer_that_waits_gives_up(shared: Database, share: SqliteShare) -> None:
    """And leaves no turn behind: the next one writes as soon as it can, and readers go on meanwhile."""
    with write_locked(share.lock.path):
        with pytest.raises(StoreUnavailable, match="database is locked"):
            await announce(shared, "too early")
        async with shared.reading() as connection:
            assert (await connection.execute(text("SELECT 1"))).scalar_one() == 1
    await announce(shared, "later")


async def test_a_turn_that_nobody_waits_for_passes_on(shared: Database, share: SqliteShare) -> None:
    """A writer that is cancelled while another process writes takes nothing with it."""
    turns = shared._turns
    assert turns is not None
    share.try_writing = lambda: False  # type: ignore[method-assign]  # as if another process had it
    entered = []

    async def write() -> None:
        async with shared.transaction():
            entered.append(True)

    tasks = [asyncio.create_task(write()) for _ in range(3)]
    await asyncio.sleep(0)
    for task in tasks[:2]:
        task.cancel()
    await asyncio.wait(tasks)
    assert entered == [True]
    assert repr(turns).endswith("taken=False>")


async def test_the_others_are_told_before_the_caller_goes_on(shared: Database) -> None:
    """Once for each transaction that has announced something, when it is committed."""
    told: list[int] = []
    numbers: list[str] = []

    def on_announced() -> None:
        told.append(len(numbers))

    shared.on_announced = on_announced
    async with shared.transaction() as connection:
        for number in ("1", "2"):
            await shared.announce(connection, "lm", number)
            numbers.append(number)
        assert told == []
    assert told == [2]
    async with shared.transaction() as connection:
        await connection.execute(text("DELETE FROM sessions"))
    async with shared.reading():
        pass
    assert told == [2]


async def test_an_end_that_was_not_heard_of_is_told(shared: Database) -> None:
    """A transaction that fails after it has announced may have been committed: to look in vain costs little."""
    told: list[bool] = []
    shared.on_announced = lambda: told.append(True)

    async def fail() -> None:
        async with shared.transaction() as connection:
            await shared.announce(connection, "lm", "1")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fail()
    assert told == [True]


async def test_a_service_alone_announces_nothing(database: Database) -> None:
    """Nobody would read it."""
    told: list[bool] = []
    database.on_announced = lambda: told.append(True)
    await announce(database, "1")
    async with database.reading() as connection:
        assert (await connection.execute(text("SELECT count(*) FROM changes"))).scalar_one() == 0
    assert told == []


class Followed:
    """A follower whose handler ends when the test says so."""

    def __init__(self, database: Database) -> None:
        self.background = Background()
        self.follower = Follower(database, self.background)
        self.refs: list[str] = []
        self.begins = asyncio.Event()
        self.may_end = asyncio.Event()
        self.may_end.set()

    async def handle(self, ref: str) -> None:
        self.begins.set()
        await self.may_end.wait()
        self.refs.append(ref)

    async def start(self) -> None:
        await self.follower.mark()
        self.follower.start({"rollout": self.handle, "session_begun": self.handle}, _reload)

    async def aclose(self) -> None:
        await self.follower.aclose()
        await self.background.aclose()


async def _reload() -> None:
    raise AssertionError("nothing has been missed")


@pytest.fixture
async def followed(shared: Database, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Followed]:
    """A follower that reads nothing by itself, after it has begun."""
    monkeypatch.setattr(store.follower, "POLL_INTERVAL_S", 3600.0)
    followed = Followed(shared)
    await followed.start()
    await followed.follower.catch_up()
    yield followed
    await followed.aclose()


async def test_a_replica_catches_up_when_it_asks(shared: Database, followed: Followed) -> None:
    """All that was announced before is handled, each change once, in order."""
    for number in range(5):
        await announce(shared, str(number))
        await followed.follower.catch_up()
        assert followed.refs == [str(one) for one in range(number + 1)]
    await followed.follower.catch_up()
    assert followed.refs == ["0", "1", "2", "3", "4"]


async def test_a_replica_that_is_woken_looks(shared: Database, followed: Followed) -> None:
    """At once, without waiting for its next poll."""
    await announce(shared, "a")
    followed.begins.clear()
    followed.follower.wake()
    async with asyncio.timeout(5):
        await followed.begins.wait()


async def test_who_asks_amid_a_round_gets_the_next_one(shared: Database, followed: Followed) -> None:
    """The round under way has read too early; all who ask until the next one begins share that."""
    await announce(shared, "a")
    followed.may_end.clear()
    followed.begins.clear()
    first = asyncio.create_task(followed.follower.catch_up())
    await followed.begins.wait()
    await announce(shared, "b")
    others = [asyncio.create_task(followed.follower.catch_up()) for _ in range(3)]
    await asyncio.sleep(0)
    assert not first.done()
    followed.may_end.set()
    await first
    await asyncio.gather(*others)
    assert followed.refs == ["a", "b"]


async def test_a_caller_that_goes_away_breaks_nothing_off(shared: Database, followed: Followed) -> None:
    """The change that was being handled is handled, and not again."""
    await announce(shared, "a")
    followed.may_end.clear()
    followed.begins.clear()
    gone = asyncio.create_task(followed.follower.catch_up())
    await followed.begins.wait()
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    followed.may_end.set()
    await followed.follower.catch_up()
    assert followed.refs == ["a"]


async def test_a_database_that_does_not_answer_is_told(
    shared: Database, share: SqliteShare, followed: Followed
) -> None:
    """To each who asks; the next round goes on where this one was."""
    await announce(shared, "a")
    elsewhere = share.lock.path.with_name("elsewhere")
    share.lock.path.rename(elsewhere)
    asked = [asyncio.create_task(followed.follower.catch_up()) for _ in range(3)]
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [StoreUnavailable] * 3
    elsewhere.rename(share.lock.path)
    await followed.follower.catch_up()
    assert followed.refs == ["a"]


async def test_nothing_is_followed_before_the_start(shared: Database) -> None:
    """A replica that still reads everything has nothing to catch up with."""
    followed = Followed(shared)
    await followed.follower.mark()
    await announce(shared, "a")
    await followed.follower.catch_up()
    assert followed.refs == []
    followed.follower.start({"rollout": followed.handle, "session_begun": followed.handle}, _reload)
    await followed.follower.catch_up()
    assert followed.refs == ["a"]
    await followed.aclose()


@pytest.fixture(params=[True, False])
async def either(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    """A database that replicas share, and one that a service has for itself."""
    url = f"sqlite+aiosqlite:///{tmp_path / 'either.db'}"
    copy_migrated(tmp_path / "either.db")
    share = claim_for_replicas(url) if request.param else None
    database = Database(url, share=share)
    await database.migrate()
    yield database
    await database.aclose()
    if share is not None:
        share.close()


async def test_a_transaction_that_is_broken_off_lets_go(either: Database) -> None:
    """The next one writes at once, although garbage of the first one is left."""
    for _ in range(7):
        with pytest.raises(StoreUnavailable):
            await last_too_long(either)
        async with either.transaction(2.0) as connection:
            await connection.execute(text("DELETE FROM changes"))


async def test_no_connection_is_opened_on_another_log(either: Database) -> None:
    """Once the log is deleted a connection that breaks is not replaced: with a second log it would destroy the file."""
    path = Path(str(either.url.database))
    await announce(either, "before")
    log = path.with_name(f"{path.name}-wal")
    log.unlink()
    await announce(either, "after")
    with pytest.raises(StoreUnavailable, match="start the service again"):
        await break_all_connections(either)
    assert not log.exists()


async def break_all_connections(database: Database) -> None:
    """Breaks one connection after the other, until none can be had."""
    while True:
        with suppress(StoreUnavailable):
            await last_too_long(database)
        await announce(database, "x")


async def last_too_long(database: Database) -> None:
    """Has a connection break off."""
    async with database.transaction(0.03) as connection:
        await connection.execute(text("DELETE FROM changes"))
        await connection.execute(text(SLOW))
