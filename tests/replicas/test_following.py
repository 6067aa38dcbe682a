"""A replica follows the changes that others write to PostgreSQL, of unknown kinds too."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import pytest
import structlog
from sqlalchemy import delete

from common.background import Background
from routing.rollout.flag import open_flag
from routing.rollout.model import Change, Source
from store.database import Database
from store.follower import Follower
from store.rollout_log import SqlRolloutLog
from store.tables import changes
from tests.replicas.conftest import Postgres
from tests.support.rollout import rise_before_a_rollback
from tests.support.waiting import DEADLINE_S

pytestmark = pytest.mark.anyio


@pytest.fixture
async def database(postgres: Postgres) -> AsyncIterator[Database]:
    database = Database(postgres.url)
    await database.migrate()
    yield database
    await database.aclose()


@pytest.mark.parametrize(("is_elsewhere", "is_overtaken"), [(False, False), (True, False), (True, True)])
async def test_changes_that_hang_in_postgresql(database: Database, *, is_elsewhere: bool, is_overtaken: bool) -> None:
    """A rollback voids what was asked for before it on any replica, as the log in PostgreSQL has it."""
    one, other = SqlRolloutLog(database), SqlRolloutLog(database)
    await rise_before_a_rollback(one, other, is_elsewhere=is_elsewhere, is_overtaken=is_overtaken)


@pytest.mark.parametrize("text", ["a NUL \x00", "half a pair \ud800", "«ünïcode» ∀"])
async def test_a_rollback_is_written_to_postgresql_whatever_its_text_is(database: Database, text: str) -> None:
    """The rollback blocks no later change, and reaches the other replicas."""
    flag, elsewhere = await open_flag(SqlRolloutLog(database), 5000), await open_flag(SqlRolloutLog(database), None)
    await flag.rollback(text, text)
    assert (flag.is_written, flag.current.revision) == (True, 2)
    latest = await SqlRolloutLog(database).latest()
    assert latest is not None
    elsewhere.follow(latest)
    assert elsewhere.threshold == 0
    await flag.change(Change(100, Source.API, "bob"))


@pytest.mark.parametrize("is_reload", [False, True])
async def test_no_change_keeps_a_replica_from_a_rollback(database: Database, *, is_reload: bool) -> None:
    """Neither a kind that only newer replicas write, nor one that cannot be followed, nor a reload that fails once."""
    log = SqlRolloutLog(database)
    flag, elsewhere = await open_flag(log, 5000), await open_flag(log, None)
    background = Background()
    follower = Follower(database, background)
    async with database.transaction() as connection:
        await database.announce(connection, "session_ended", "older")
    await follower.mark()
    handled: Counter[str] = Counter()
    both_known = asyncio.Event()

    async def rollout(_: str) -> None:
        latest = await log.latest()
        assert latest is not None
        flag.follow(latest)

    async def bad(_: str) -> None:
        handled["bad"] += 1
        raise RuntimeError("no")

    async def reload() -> None:
        handled["reload"] += 1
        if handled["reload"] == 1:
            raise RuntimeError("no")
        both_known.set()

    async def last(_: str) -> None:
        both_known.set()

    async with database.transaction() as connection:
        for kind in ("of tomorrow", "program", "of tomorrow", "of another day"):
            await database.announce(connection, kind, "x")
    await elsewhere.rollback("carol", None)
    async with database.transaction() as connection:
        await database.announce(connection, "last", "x")
        if is_reload:  # the first two, which this replica knows, and one more: it was away for too long
            await connection.execute(delete(changes).where(changes.c.seq <= 3))
    with structlog.testing.capture_logs() as logged:
        follower.start({"rollout": rollout, "program": bad, "last": last}, reload)
        async with asyncio.timeout(DEADLINE_S):
            await both_known.wait()
    assert (flag.threshold, flag.current.source) == (0, Source.ROLLBACK)
    skipped = [line["kind"] for line in logged if line["event"].startswith("changes of an unknown kind")]
    assert skipped == ([] if is_reload else ["of tomorrow", "of another day"])
    assert handled == ({"reload": 2} if is_reload else {"bad": 1})
    await follower.aclose()
    await background.aclose()
