"""The store: migrations that make what the tables say, and a rollout's history that two writers cannot fork."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection

from routing.errors import StaleRevision
from routing.rollout_model import Change, Source
from store.database import Database
from store.rollout_log import SqlRolloutLog
from store.tables import metadata

pytestmark = pytest.mark.anyio


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = Database(f"sqlite+aiosqlite:///{tmp_path / 'test.db'}")
    await database.migrate()
    yield database
    await database.aclose()


async def test_the_migrations_make_what_the_tables_say(database: Database) -> None:
    """No difference that Alembic could see."""

    def differences(connection: Connection) -> list[object]:
        return list(compare_metadata(MigrationContext.configure(connection), metadata))

    async with database.transaction() as connection:
        assert await connection.run_sync(differences) == []


async def test_migrating_twice_changes_nothing(database: Database) -> None:
    """Every start does it."""
    await database.migrate()


async def test_of_two_writers_one_wins_and_the_other_is_told(database: Database) -> None:
    """Revisions count up without a gap, and a stale writer learns which one is the newest."""
    log = SqlRolloutLog(database)
    first = await log.append(Change(0, Source.DEFAULT, "start"), after=0)
    assert first.revision == 1
    outcomes = await asyncio.gather(
        *(log.append(Change(points, Source.API, f"writer {points}"), after=1) for points in (100, 200, 300)),
        return_exceptions=True,
    )
    won = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
    lost = [outcome for outcome in outcomes if isinstance(outcome, StaleRevision)]
    assert (len(won), len(lost)) == (1, 2)
    assert all(error.current == won[0] for error in lost)
    assert [rollout.revision for rollout in await log.history(limit=10)] == [2, 1]
    assert await log.latest() == won[0]
