"""Counts from several replicas: all add up in the database, whoever writes them in whatever order."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from poolshift.worker.definitions import Definition, Signature
from routing.catalog.owners import EVERYONE
from routing.catalog.programs import NewProgram, ProgramUse
from routing.catalog.sessions import SessionUse
from routing.versions import Version
from store.database import Database
from store.program_store import SqlProgramStore
from store.session_store import SqlSessionStore
from tests.replicas.conftest import Postgres

pytestmark = pytest.mark.anyio
# With a fraction that SQLite, which counts milliseconds there, can hold too.
FIRST_S, LAST_S = 3_600.0, 60.0
"""The ages of uses, in seconds."""
DEFINITION = Definition("python", Signature((), ()), "examples.text:keywords")


@pytest.fixture(params=["sqlite", "postgresql"])
async def databases(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[list[Database]]:
    """The databases of two replicas; with SQLite there is only one."""
    if request.param == "sqlite":
        url, count = f"sqlite+aiosqlite:///{tmp_path / 'test.db'}", 1
    else:
        postgres: Postgres = request.getfixturevalue("postgres")
        url, count = postgres.url, 2
    databases = [Database(url) for _ in range(count)]
    for one in databases:
        await one.migrate()
    yield databases
    for one in databases:
        await one.aclose()


def is_about(at: datetime, age_s: float) -> bool:
    """Tells if a time was so long ago, but for what the test itself takes."""
    return age_s - 1 <= (datetime.now(UTC) - at).total_seconds() <= age_s + 50


async def test_the_counts_of_programs_add_up(databases: list[Database]) -> None:
    """Two replicas write the same hundreds again and again, each in an order of its own, and neither is refused.

    On SQLite there is one, and it is the numbers alone that are looked at.
    """
    stores = [SqlProgramStore(one) for one in databases]
    programs = [await stores[0].add(NewProgram(f"p-{number}", None, DEFINITION)) for number in range(300)]
    uses = {one.program.key: ProgramUse(3, LAST_S) for one in programs}
    orders = [uses, dict(reversed(uses.items()))]
    rounds = 10

    async def write(store: SqlProgramStore, order: dict[str, ProgramUse]) -> None:
        for _ in range(rounds):
            await store.add_uses(order)

    await asyncio.gather(*(write(store, order) for store, order in zip(stores, orders, strict=False)))
    for one in await stores[0].load():
        assert one.execution_count == 3 * rounds * len(stores)
        assert one.last_executed_at is not None
        assert is_about(one.last_executed_at, LAST_S)


async def test_the_counts_of_sessions_add_up(databases: list[Database]) -> None:
    """The first to write a session makes it; a use without an execution leaves the version that served it."""
    stores = [SqlSessionStore(one) for one in databases]
    ids = [f"s-{number} ünï☃\"'" for number in range(300)]
    begun = {one: SessionUse(FIRST_S, FIRST_S, Version.V2, 3) for one in ids}
    rounds = 10

    async def write(store: SqlSessionStore, order: list[str]) -> None:
        for _ in range(rounds):
            await store.add_uses({one: begun[one] for one in order})

    await asyncio.gather(*(write(store, order) for store, order in zip(stores, (ids, ids[::-1]), strict=False)))
    await stores[-1].add_uses({one: SessionUse(LAST_S, LAST_S, None, 0) for one in ids})
    seen = {one.id: one for one in await stores[0].page(EVERYONE, limit=1000, after="")}
    assert set(seen) == set(ids)
    for one in seen.values():
        assert one.execution_count == 3 * rounds * len(stores)
        assert is_about(one.created_at, FIRST_S)
        assert is_about(one.last_seen_at, LAST_S)
        assert one.pool_version is Version.V2
