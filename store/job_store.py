"""Jobs in the database."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import Row, delete, insert, null, select, update

from routing.catalog.idempotency import KeyedCall, KeyTaken
from routing.catalog.jobs import Job, JobStatus, NewJob
from routing.catalog.owners import Caller
from routing.versions import Version
from store.clock import moment
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

    async def add(self, new: NewJob, keyed: Callable[[Job], KeyedCall] | None = None) -> Job:
        values = {
            "id": new.id,
            "session_id": new.session_id or GLOBAL,
            "program_id": new.program_id,
            "status": JobStatus.QUEUED,
            "pool_version": new.pool_version,
            "is_to_be_cancelled": False,
            "owner": new.owner,
            "webhook": new.webhook,
        }
        async with self._database.transaction() as connection:
            now = moment(connection)
            row = insert(executions).values(**values, created_at=now, alive_at=now).returning(executions)
            job = _execution((await connection.execute(row)).one())
            if keyed is not None and not await claim_key(connection, keyed(job), self._key_ttl_s):
                raise KeyTaken
        return job

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
        async with self._database.reading() as connection:
            row = (await connection.execute(select(executions).where(executions.c.id == execution_id))).one_or_none()
        return _execution(row) if row is not None else None

    async def page(self, session_id: str | None, caller: Caller, *, limit: int, before: int | None) -> Sequence[Job]:
        of_session = executions.c.session_id == (session_id or GLOBAL)
        query = select(*_WITHOUT_BODY).where(of_session, seen_by(caller, executions.c.owner))
        if before is not None:
            query = query.where(executions.c.key < before)
        async with self._database.reading() as connection:
            rows = await connection.execute(query.order_by(executions.c.key.desc()).limit(limit))
            return [_execution(row) for row in rows]

    async def ask_to_cancel(self, execution_id: str) -> None:
        change = update(executions).where(executions.c.id == execution_id, _NOT_OVER).values(is_to_be_cancelled=True)
        async with self._database.transaction() as connection:
            await connection.execute(change)

    async def heartbeat(self, execution_ids: Collection[str]) -> Mapping[str, bool]:
        of_them = executions.c.id.in_(execution_ids)
        async with self._database.transaction() as connection:
            await connection.execute(update(executions).where(of_them, _NOT_OVER).values(alive_at=moment(connection)))
            query = select(executions.c.id, executions.c.is_to_be_cancelled).where(of_them, _NOT_OVER)
            rows = await connection.execute(query)
            return {row.id: row.is_to_be_cancelled for row in rows}

    async def interrupt(self, silent_for_s: float | None) -> int:
        change = update(executions).where(_NOT_OVER)
        async with self._database.transaction() as connection:
            if silent_for_s is not None:
                change = change.where(executions.c.alive_at < moment(connection, -silent_for_s))
            values = {"status": JobStatus.INTERRUPTED, "ended_at": moment(connection)}
            rows = (await connection.execute(change.values(values).returning(*_WITHOUT_BODY))).all()
            for row in rows:
                await tell_job_end(connection, row, JobStatus.INTERRUPTED, row.ended_at)
        return len(rows)

    async def forget(self, ended_for_s: float) -> None:
        async with self._database.transaction() as connection:
            await connection.execute(delete(executions).where(executions.c.ended_at < moment(connection, -ended_for_s)))


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
