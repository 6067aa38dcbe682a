"""Jobs in the database."""

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Row, delete, insert, null, select, update

from common.moments import moment_before
from routing.catalog.idempotency import KeyedCall, KeyTaken
from routing.catalog.jobs import Job, JobStatus
from routing.catalog.owners import Caller
from routing.versions import Version
from store.database import Database
from store.key_store import claim_key
from store.outbox import tell_job_end
from store.owners import seen_by
from store.tables import GLOBAL, executions

_WITHOUT_BODY = [null().label("body") if column.name == "body" else column for column in executions.columns]
_NOT_OVER = executions.c.ended_at.is_(None)


class SqlJobStore:
    """Implements `routing.catalog.jobs.JobStore`."""

    def __init__(self, database: Database, *, key_ttl_s: float = 86_400.0) -> None:
        """Takes an idempotency key for free that is older than `key_ttl_s`."""
        self._database = database
        self._key_ttl_s = key_ttl_s

    async def add(self, job: Job, keyed: KeyedCall | None = None) -> Job:
        values = {
            "id": job.id,
            "session_id": job.session_id or GLOBAL,
            "program_id": job.program_id,
            "status": job.status,
            "pool_version": job.pool_version,
            "created_at": job.created_at,
            "alive_at": job.created_at,
            "is_to_be_cancelled": False,
            "owner": job.owner,
            "webhook": job.webhook,
        }
        async with self._database.transaction() as connection:
            if keyed is not None:
                after = moment_before(self._key_ttl_s)
                if not await claim_key(self._database, connection, keyed, after):
                    raise KeyTaken
            row = (await connection.execute(insert(executions).values(values).returning(executions))).one()
        return _execution(row)

    async def update(self, job: Job) -> bool:
        change = update(executions).where(executions.c.id == job.id, _NOT_OVER)  # a final status is final
        values = {
            "status": job.status,
            "pool_version": job.pool_version,
            "started_at": job.started_at,
            "ended_at": job.ended_at,
            "body": job.body.decode(errors="replace") if job.body is not None else None,
        }
        async with self._database.transaction() as connection:
            row = (await connection.execute(change.values(values).returning(*_WITHOUT_BODY))).one_or_none()
            if row is not None and job.ended_at is not None:
                await tell_job_end(connection, row, job.status, job.ended_at)
        return row is not None

    async def find(self, execution_id: str) -> Job | None:
        async with self._database.transaction() as connection:
            row = (await connection.execute(select(executions).where(executions.c.id == execution_id))).one_or_none()
        return _execution(row) if row is not None else None

    async def page(self, session_id: str | None, caller: Caller, *, limit: int, before: int | None) -> Sequence[Job]:
        of_session = executions.c.session_id == (session_id or GLOBAL)
        query = select(*_WITHOUT_BODY).where(of_session, seen_by(caller, executions.c.owner))
        if before is not None:
            query = query.where(executions.c.key < before)
        async with self._database.transaction() as connection:
            rows = await connection.execute(query.order_by(executions.c.key.desc()).limit(limit))
            return [_execution(row) for row in rows]

    async def ask_to_cancel(self, execution_id: str) -> None:
        change = update(executions).where(executions.c.id == execution_id, _NOT_OVER).values(is_to_be_cancelled=True)
        async with self._database.transaction() as connection:
            await connection.execute(change)

    async def heartbeat(self, execution_ids: Collection[str]) -> Mapping[str, bool]:
        of_them = executions.c.id.in_(execution_ids)
        async with self._database.transaction() as connection:
            await connection.execute(update(executions).where(of_them, _NOT_OVER).values(alive_at=datetime.now(UTC)))
            query = select(executions.c.id, executions.c.is_to_be_cancelled).where(of_them, _NOT_OVER)
            rows = await connection.execute(query)
            return {row.id: row.is_to_be_cancelled for row in rows}

    async def interrupt(self, silent_since: datetime | None) -> int:
        change = update(executions).where(_NOT_OVER)
        if silent_since is not None:
            change = change.where(executions.c.alive_at < silent_since)
        now = datetime.now(UTC)
        values = {"status": JobStatus.INTERRUPTED, "ended_at": now}
        async with self._database.transaction() as connection:
            rows = (await connection.execute(change.values(values).returning(*_WITHOUT_BODY))).all()
            for row in rows:
                await tell_job_end(connection, row, JobStatus.INTERRUPTED, now)
        return len(rows)

    async def forget(self, ended_before: datetime) -> None:
        async with self._database.transaction() as connection:
            await connection.execute(delete(executions).where(executions.c.ended_at < ended_before))


def _execution(row: Row[Any]) -> Job:
    return Job(
        id=row.id,
        program_id=row.program_id,
        session_id=row.session_id or None,
        status=JobStatus(row.status),
        created_at=row.created_at,
        key=row.key,
        pool_version=Version(row.pool_version) if row.pool_version else None,
        started_at=row.started_at,
        ended_at=row.ended_at,
        body=row.body.encode() if row.body is not None else None,
        owner=row.owner,
        webhook=row.webhook,
    )
