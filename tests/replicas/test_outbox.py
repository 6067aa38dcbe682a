"""Notifications of several replicas on PostgreSQL: each is delivered once, one of a dead replica too."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import update

from routing.webhooks import notifier
from store.database import Database
from store.outbox import SqlOutbox
from store.tables import outbox
from tests.replicas.conftest import Postgres
from tests.support.receiver import running_receiver
from tests.unit.test_ramp import started
from tests.unit.test_webhook import move, notifying, until

pytestmark = pytest.mark.anyio

REPLICAS = 3
MOVES = 30


@pytest.fixture
async def databases(postgres: Postgres) -> AsyncIterator[list[Database]]:
    """Each replica's own way to the one database."""
    async with AsyncExitStack() as stack:
        found = [Database(postgres.url) for _ in range(REPLICAS)]
        for database in found:
            stack.push_async_callback(database.aclose)
            await database.migrate()
        yield found


async def test_three_replicas_deliver_each_notification_once(
    databases: list[Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All at work at once, and one claim that a dead replica has left is taken over when it lapses."""
    monkeypatch.setattr(notifier, "LOOK_EVERY_S", 0.01)
    await move(databases[0], *(replace(started(), step=number % 2) for number in range(MOVES)))
    left = await SqlOutbox(databases[0]).claim(for_s=3600)
    assert left is not None
    with running_receiver() as receiver:
        async with AsyncExitStack() as stack:
            counts = [await stack.enter_async_context(notifying(database, receiver.url)) for database in databases]
            await until(lambda: sum(count["delivered"] for count in counts) == MOVES - 1, "all but the claimed one")
            async with databases[0].transaction() as connection:
                lapsed = update(outbox).where(outbox.c.key == left.key)
                await connection.execute(lapsed.values(next_at=datetime.now(UTC) - timedelta(seconds=1)))
            await until(lambda: sum(count["delivered"] for count in counts) == MOVES, "that one too")
        assert sum(count.total() for count in counts) == MOVES
        assert len(receiver.deliveries) == len({one.headers["webhook-id"] for one in receiver.deliveries}) == MOVES
