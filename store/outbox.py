"""Notifications in the database: a claim moves the time at which they are due, so that one replica delivers each."""

from datetime import UTC, datetime, timedelta

import msgspec
from sqlalchemy import select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from routing.rollout.outbox import Notification
from store.database import Database
from store.tables import outbox

RAMP = "ramp"
"""The kind of a change of the ramp; a newer replica may queue kinds that only its like can deliver."""


class SqlOutbox:
    """Implements `routing.rollout.outbox.Outbox`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def claim(self, *, for_s: float) -> Notification | None:
        async with self._database.transaction() as connection:
            now = await self._now(connection)
            is_due = (outbox.c.next_at <= now) & (outbox.c.kind == RAMP)
            oldest = select(outbox).where(is_due).order_by(outbox.c.key).limit(1)
            row = (await connection.execute(oldest.with_for_update(skip_locked=True))).one_or_none()
            if row is None:
                return None
            # SQLite has no lock on a row: the condition sees that nobody has claimed it in between.
            is_mine = (outbox.c.key == row.key) & (outbox.c.next_at == row.next_at)
            until = now + timedelta(seconds=for_s)
            if not (await connection.execute(update(outbox).where(is_mine).values(next_at=until))).rowcount:
                return None
        age_s = (now - row.at).total_seconds()
        return Notification(row.key, msgspec.json.decode(row.data), row.at, row.attempts, age_s)

    async def delivered(self, key: int) -> None:
        async with self._database.transaction() as connection:
            now = await self._now(connection)
            await connection.execute(update(outbox).where(outbox.c.key == key).values(next_at=None, delivered_at=now))

    async def failed(self, key: int, *, again_in_s: float | None) -> None:
        async with self._database.transaction() as connection:
            now = await self._now(connection)
            next_at = None if again_in_s is None else now + timedelta(seconds=again_in_s)
            is_open = (outbox.c.key == key) & outbox.c.delivered_at.is_(None)
            values = {"next_at": next_at, "attempts": outbox.c.attempts + 1}
            await connection.execute(update(outbox).where(is_open).values(values))

    async def _now(self, connection: AsyncConnection) -> datetime:
        """The time by the database's clock, if several replicas share it: their own may differ."""
        if not self._database.is_shared:
            return datetime.now(UTC)
        now: datetime = (await connection.execute(text("SELECT clock_timestamp()"))).scalar_one()
        return now
