"""Sessions in the database."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import BigInteger, ColumnElement, Row, Select, String, delete, func, insert, select, true, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from routing.catalog.ended_sessions import MAX_REMEMBERED, REMEMBERED, EndedSession
from routing.catalog.jobs import JobStatus
from routing.catalog.owners import Caller
from routing.catalog.sessions import SessionUse, StoredSession
from routing.versions import Version
from store import clock
from store.database import Database
from store.json_rows import json_rows, parameter
from store.outbox import tell_job_end
from store.owners import seen_by
from store.tables import (
    UtcDateTime,
    deleted_programs,
    ended_sessions,
    executions,
    lms,
    program_revisions,
    program_v2_revisions,
    programs,
    sessions,
)


class SqlSessionStore:
    """Implements `routing.catalog.sessions.SessionStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        rows = json_rows(
            database,
            id=String(),
            created_at=UtcDateTime(),
            last_seen_at=UtcDateTime(),
            pool_version=String(),
            execution_count=BigInteger(),
            owner=String(),
        )
        used = select(rows).where(true())  # SQLite takes ON CONFLICT for a join's without a WHERE before it
        # Both dialects have the same upsert, each under a name of its own.
        self._insert = postgresql.insert if database.is_postgresql else sqlite.insert
        insert = self._insert(sessions).from_select(rows.c.keys(), used)
        new = insert.excluded  # the owner of a session that is there stays
        self._add_uses = insert.on_conflict_do_update(
            index_elements=[sessions.c.id],
            set_={
                "last_seen_at": new.last_seen_at,
                "pool_version": func.coalesce(new.pool_version, sessions.c.pool_version),
                "execution_count": sessions.c.execution_count + new.execution_count,
            },
        )

    async def add_uses(self, uses: Mapping[str, SessionUse]) -> None:
        async with self._database.transaction() as connection:
            await self._database.lock_counts(connection)
            now = (await clock.now(connection)).timestamp()
            rows = (
                (session_id, now - use.first_seen_s, now - use.last_seen_s, *use[2:])
                for session_id, use in uses.items()
            )
            await connection.execute(self._add_uses, parameter(rows))

    async def owners(self) -> Mapping[str, str | None]:
        async with self._database.reading() as connection:
            rows = await connection.execute(select(sessions.c.id, sessions.c.owner))
            return {row.id: row.owner for row in rows}

    async def claim(self, session_id: str, owner: str) -> str | None:
        async with self._database.transaction() as connection:
            now = clock.moment(connection)
            values = {"id": session_id, "created_at": now, "last_seen_at": now, "execution_count": 0, "owner": owner}
            claim = self._insert(sessions).values(values).on_conflict_do_nothing(index_elements=[sessions.c.id])
            await connection.execute(claim)
            found = await connection.execute(select(sessions.c.owner).where(sessions.c.id == session_id))
            return found.scalar_one_or_none()

    async def find(self, session_id: str) -> StoredSession | None:
        async with self._database.reading() as connection:
            row = (await connection.execute(_with_program_count().where(sessions.c.id == session_id))).one_or_none()
        return _stored(row) if row is not None else None

    async def page(self, caller: Caller, *, limit: int, after: str) -> Sequence[StoredSession]:
        query = _with_program_count().where(sessions.c.id > after, seen_by(caller, sessions.c.owner))
        query = query.order_by(sessions.c.id).limit(limit)
        async with self._database.reading() as connection:
            return [_stored(row) for row in await connection.execute(query)]

    async def end(self, session_id: str) -> EndedSession | None:
        async with self._database.transaction() as connection:
            # If there is none the answer is a 404, so what another replica is about to write must stay.
            return next(iter(await self._end(connection, sessions.c.id == session_id)), None)

    async def end_idle(self, idle_s: float) -> Sequence[EndedSession]:
        async with self._database.transaction() as connection:
            return await self._end(connection, sessions.c.last_seen_at < clock.moment(connection, -idle_s))

    async def ended(self) -> Sequence[EndedSession]:
        newest = select(ended_sessions).order_by(ended_sessions.c.ended_at.desc()).limit(MAX_REMEMBERED)
        async with self._database.transaction() as connection:
            old = ended_sessions.c.ended_at < clock.moment(connection, -REMEMBERED.total_seconds())
            await connection.execute(delete(ended_sessions).where(old))
            rows, now = (await connection.execute(newest)).all(), await clock.now(connection)
        return [_ended(row, now) for row in reversed(rows)]

    async def find_ended(self, session_id: str) -> EndedSession | None:
        query = select(ended_sessions).where(ended_sessions.c.id == session_id)
        async with self._database.reading() as connection:
            row, now = (await connection.execute(query)).one_or_none(), await clock.now(connection)
        return None if row is None else _ended(row, now)

    async def begin_again(self, session_id: str, programs: Collection[str], *, has_lm: bool) -> EndedSession | None:
        is_it = ended_sessions.c.id == session_id
        async with self._database.transaction() as connection:
            row = (await connection.execute(select(ended_sessions).where(is_it).with_for_update())).one_or_none()
            if row is None:
                return None
            ended = _ended(row, await clock.now(connection)).with_again(programs, has_lm=has_lm)
            if ended.has_everything:
                await connection.execute(delete(ended_sessions).where(is_it))
            else:
                await connection.execute(update(ended_sessions).where(is_it).values(_lost(ended)))
            await self._database.announce(connection, "session_begun", session_id)
        return None if ended.has_everything else ended

    async def forget_ended(self, session_id: str) -> None:
        async with self._database.transaction() as connection:
            await connection.execute(delete(ended_sessions).where(ended_sessions.c.id == session_id))
            await self._database.announce(connection, "session_begun", session_id)

    async def _end(self, connection: AsyncConnection, which: ColumnElement[bool]) -> list[EndedSession]:
        """Ends sessions, with what they hold, and remembers those that had something of their own."""
        removal = delete(sessions).where(which).returning(sessions.c.id, sessions.c.owner)
        now, ended = await clock.now(connection), []
        for row in (await connection.execute(removal)).all():
            programs, had_lm = await _forget_what_it_holds(connection, row.id)
            before = ended_sessions.c.id == row.id
            lacked = (await connection.execute(delete(ended_sessions).where(before).returning(ended_sessions))).first()
            if lacked is not None and lacked.owner == row.owner:  # what it lost before, and never had again
                earlier = _ended(lacked, now)
                programs, had_lm = programs | earlier.programs, had_lm or earlier.had_lm
            had_own = bool(programs) or had_lm
            ended.append(EndedSession(row.id, now, row.owner, had_own, programs=programs, had_lm=had_lm))
            await self._database.announce(connection, "session_ended", row.id)
        remembered = [{"id": one.id, "ended_at": now, "owner": one.owner, **_lost(one)} for one in ended if one.had_own]
        if remembered:
            await connection.execute(insert(ended_sessions), remembered)
        return ended


def _ended(row: Row[Any], now: datetime) -> EndedSession:
    ended_s = (now - row.ended_at).total_seconds()
    lost = frozenset(msgspec.json.decode(row.programs, type=list[str]) if row.programs is not None else ())
    had_lm, has_begun = bool(row.had_lm), bool(row.has_begun_again)
    return EndedSession(row.id, row.ended_at, row.owner, True, ended_s, lost, had_lm, has_begun)


def _lost(ended: EndedSession) -> dict[str, Any]:
    programs = msgspec.json.encode(sorted(ended.programs)).decode()
    return {"programs": programs, "had_lm": ended.had_lm, "has_begun_again": ended.has_begun_again}


async def _forget_what_it_holds(connection: AsyncConnection, session_id: str) -> tuple[frozenset[str], bool]:
    """Forgets what a session holds; returns the ids of its programs, and whether it had an LM."""
    running = select(executions).where(executions.c.session_id == session_id, executions.c.ended_at.is_(None))
    for row in (await connection.execute(running.where(executions.c.webhook.is_not(None)))).all():
        await tell_job_end(connection, row, JobStatus.CANCELLED, await clock.now(connection))
    own = delete(programs).where(programs.c.session_id == session_id).returning(programs.c.id)
    ids = frozenset((await connection.execute(own)).scalars())
    # Revisions come after programs: a change of a program adds one.
    for table in (deleted_programs, program_revisions, program_v2_revisions, executions):
        await connection.execute(delete(table).where(table.c.session_id == session_id))
    removed = await connection.execute(delete(lms).where(lms.c.session_id == session_id))
    return ids, removed.rowcount > 0


def _with_program_count() -> Select[Any]:
    count = select(func.count()).where(programs.c.session_id == sessions.c.id).scalar_subquery()
    return select(sessions, count.label("program_count"))


def _stored(row: Row[Any]) -> StoredSession:
    return StoredSession(
        id=row.id,
        created_at=row.created_at,
        last_seen_at=row.last_seen_at,
        pool_version=Version(row.pool_version) if row.pool_version else None,
        execution_count=row.execution_count,
        program_count=row.program_count,
        owner=row.owner,
    )
