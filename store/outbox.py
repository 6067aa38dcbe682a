"""Notifications in the database: a claim moves the time at which they are due, so that one replica delivers each."""

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import msgspec
from sqlalchemy import Row, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from routing.catalog.jobs import JobStatus
from routing.webhooks.outbox import Notification
from store import clock
from store.database import Database
from store.tables import outbox

RAMP = "ramp"
"""The kind of a change of the ramp; a newer replica may queue kinds that only its like can deliver."""
JOB = "job"
"""The kind of a job's end."""


_MAX_TARGET = 300


class SqlOutbox:
    """Implements `routing.webhooks.outbox.Outbox`."""

    def __init__(self, database: Database, kind: str = RAMP) -> None:
        """Takes the notifications of `kind` alone."""
        self._database = database
        self._kind = kind

    async def claim(self, *, for_s: float, busy: Collection[str] = ()) -> Notification | None:
        async with self._database.transaction() as connection:
            now = await clock.now(connection)
            is_due = (outbox.c.next_at <= now) & (outbox.c.kind == self._kind)
            if busy:
                is_due &= outbox.c.target.is_(None) | outbox.c.target.not_in(busy)
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
        return Notification(row.key, msgspec.json.decode(row.data), row.at, row.attempts, age_s, row.target)

    async def delivered(self, key: int) -> None:
        async with self._database.transaction() as connection:
            now = await clock.now(connection)
            await connection.execute(update(outbox).where(outbox.c.key == key).values(next_at=None, delivered_at=now))

    async def failed(self, key: int, *, again_in_s: float | None) -> None:
        async with self._database.transaction() as connection:
            now = await clock.now(connection)
            next_at = None if again_in_s is None else now + timedelta(seconds=again_in_s)
            is_open = (outbox.c.key == key) & outbox.c.delivered_at.is_(None)
            values = {"next_at": next_at, "attempts": outbox.c.attempts + 1}
            await connection.execute(update(outbox).where(is_open).values(values))

    async def forget(self, older_than_s: float) -> None:
        is_over = (outbox.c.kind == self._kind) & outbox.c.next_at.is_(None)
        async with self._database.transaction() as connection:
            is_old = outbox.c.at < clock.moment(connection, -older_than_s)
            await connection.execute(delete(outbox).where(is_over, is_old))


async def tell_job_end(connection: AsyncConnection, row: Row[Any], status: JobStatus, at: datetime) -> None:
    """Queues the notification of a job's end, in the transaction that ends the job, if the job has a webhook."""
    if row.webhook is None:
        return
    data = {
        "url": row.webhook,
        "execution_id": row.id,
        "program_id": row.program_id,
        "session_id": row.session_id or None,
        "status": status,
        "pool_version": row.pool_version,
        "created_at": row.created_at,
        "started_at": row.started_at,
        "ended_at": at,
    }
    values = {"kind": JOB, "data": msgspec.json.encode(data).decode(), "at": at, "attempts": 0, "next_at": at}
    await connection.execute(insert(outbox).values(target=urlsplit(row.webhook).netloc.lower()[:_MAX_TARGET], **values))
