"""The rollout's history in the database: the primary key decides who of two writers made a revision."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, delete, insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from routing.errors import StaleRevision
from routing.rollout.model import Change, Rollout, Source
from store.database import Database
from store.tables import rollout_revisions, rollout_sources


class SqlRolloutLog:
    """Implements `routing.rollout.flag.RolloutLog`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def latest(self) -> Rollout | None:
        async with self._database.transaction() as connection:
            return await _latest(connection)

    async def append(self, change: Change, *, after: int) -> Rollout:
        try:
            async with self._database.transaction() as connection:
                latest = await _latest(connection)
                if latest is not None and latest.revision != after:
                    raise StaleRevision(latest)
                rollout = Rollout(
                    revision=after + 1,
                    canary_basis_points=change.canary_basis_points,
                    previous_basis_points=latest.canary_basis_points if latest else None,
                    source=change.source,
                    updated_by=change.by,
                    reason=change.reason,
                )
                await connection.execute(insert(rollout_revisions).values(_columns(rollout)))
                await self._database.announce(connection, "rollout", str(rollout.revision))
        except IntegrityError:  # another writer was faster
            current = await self.latest()
            assert current is not None
            raise StaleRevision(current) from None
        return rollout

    async def history(self, *, limit: int, before: int | None = None) -> Sequence[Rollout]:
        query = select(rollout_revisions).order_by(rollout_revisions.c.revision.desc()).limit(limit)
        if before is not None:
            query = query.where(rollout_revisions.c.revision < before)
        async with self._database.transaction() as connection:
            return [_rollout(row) for row in await connection.execute(query)]

    async def last_seen(self, source: Source) -> str | None:
        query = select(rollout_sources.c.last_seen).where(rollout_sources.c.source == source)
        async with self._database.transaction() as connection:
            return (await connection.execute(query)).scalar_one_or_none()

    async def saw(self, source: Source, value: str) -> None:
        async with self._database.transaction() as connection:
            await connection.execute(delete(rollout_sources).where(rollout_sources.c.source == source))
            await connection.execute(insert(rollout_sources).values(source=source, last_seen=value))


async def _latest(connection: AsyncConnection) -> Rollout | None:
    query = select(rollout_revisions).order_by(rollout_revisions.c.revision.desc()).limit(1)
    row = (await connection.execute(query)).one_or_none()
    return _rollout(row) if row is not None else None


def _columns(rollout: Rollout) -> dict[str, Any]:
    return {column.name: getattr(rollout, column.name) for column in rollout_revisions.columns}


def _rollout(row: Row[Any]) -> Rollout:
    return Rollout(**{**row._mapping, "source": Source(row.source)})
