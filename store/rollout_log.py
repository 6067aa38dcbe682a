"""The rollout's history in the database: the primary key decides which of two writers made a revision."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy import Row, and_, func, insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from routing.errors import StaleRevision
from routing.rollout.model import RAMPS, Change, Rollout, next_shadow, source_of, voids_earlier_changes
from store import clock
from store.database import Database
from store.tables import rollout_revisions, rollout_sources
from store.upsert import insert_into

_IS_ROLLBACK = and_(rollout_revisions.c.canary_basis_points == 0, rollout_revisions.c.source.not_in(sorted(RAMPS)))
_NEWEST_ROLLBACK = select(func.max(rollout_revisions.c.revision)).where(_IS_ROLLBACK).scalar_subquery()
_IS_ROTATION = rollout_revisions.c.v1_pool.is_not(None)
_NEWEST_ROTATION = select(func.max(rollout_revisions.c.revision)).where(_IS_ROTATION).scalar_subquery()
_MAX_BY_LENGTH = 256
_log = structlog.stdlib.get_logger("poolshift.rollout")


class SqlRolloutLog:
    """Implements `routing.rollout.log.RolloutLog`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def latest(self) -> Rollout | None:
        async with self._database.reading() as connection:
            return await _latest(connection)

    async def append(self, change: Change, *, after: int) -> Rollout:
        try:
            async with self._database.transaction() as connection:
                rollout = await insert_revision(connection, change, after)
                await self._database.announce(connection, "rollout", str(rollout.revision))
        except IntegrityError:
            raise await self.overtaken() from None
        return rollout

    async def overtaken(self) -> StaleRevision:
        """The error of a change that another writer was faster than."""
        current = await self.latest()
        assert current is not None
        return StaleRevision(current)

    async def history(self, *, limit: int, before: int | None = None) -> Sequence[Rollout]:
        query = select(rollout_revisions).order_by(rollout_revisions.c.revision.desc()).limit(limit)
        if before is not None:
            query = query.where(rollout_revisions.c.revision < before)
        async with self._database.reading() as connection:
            return [_rollout(row) for row in await connection.execute(query)]

    async def rotation(self) -> Rollout | None:
        query = select(rollout_revisions).where(_IS_ROTATION).order_by(rollout_revisions.c.revision.desc()).limit(1)
        async with self._database.reading() as connection:
            row = (await connection.execute(query)).one_or_none()
        return None if row is None else _rollout(row)

    async def last_seen(self, source: str) -> str | None:
        query = select(rollout_sources.c.last_seen).where(rollout_sources.c.source == source)
        async with self._database.reading() as connection:
            return (await connection.execute(query)).scalar_one_or_none()

    async def saw(self, source: str, value: str) -> None:
        async with self._database.transaction() as connection:
            new = insert_into(rollout_sources, connection.dialect).values(source=source, last_seen=value)
            seen = new.on_conflict_do_update(
                index_elements=[rollout_sources.c.source], set_={"last_seen": new.excluded.last_seen}
            )
            await connection.execute(seen)


async def insert_revision(connection: AsyncConnection, change: Change, after: int) -> Rollout:
    """Makes `change` the revision that follows `after`.

    Raises:
        StaleRevision: `after` is not the newest revision.
        IntegrityError: another writer was faster.
    """
    latest = await _latest(connection)
    if latest is not None and latest.revision != after:
        raise StaleRevision(latest)
    rollout = _next(change, after, latest, await clock.now(connection))
    await connection.execute(insert(rollout_revisions).values(_columns(rollout)))
    return rollout


async def _latest(connection: AsyncConnection) -> Rollout | None:
    """The newest revision, with the newest rollback and the newest rotation of the same snapshot."""
    revisions = select(
        rollout_revisions,
        func.coalesce(_NEWEST_ROLLBACK, 0).label("rollback_revision"),
        func.coalesce(_NEWEST_ROTATION, 0).label("rotation_revision"),
    )
    row = (await connection.execute(revisions.order_by(rollout_revisions.c.revision.desc()).limit(1))).one_or_none()
    return _rollout(row) if row is not None else None


def _next(change: Change, after: int, latest: Rollout | None, now: datetime) -> Rollout:
    revision = after + 1
    is_rollback = voids_earlier_changes(change.canary_basis_points, change.source)
    return Rollout(
        revision=revision,
        canary_basis_points=change.canary_basis_points,
        previous_basis_points=latest.canary_basis_points if latest else None,
        source=change.source,
        updated_by=change.by[:_MAX_BY_LENGTH],
        updated_at=now,
        reason=change.reason,
        rollback_revision=revision if is_rollback else latest.rollback_revision if latest else 0,
        shadow_basis_points=next_shadow(change, latest),
        v1_pool=change.v1_pool,
        rotation_revision=revision if change.v1_pool is not None else latest.rotation_revision if latest else 0,
    )


def _columns(rollout: Rollout) -> dict[str, Any]:
    return {column.name: getattr(rollout, column.name) for column in rollout_revisions.columns}


def _rollout(row: Row[Any]) -> Rollout:
    # An older replica writes no shadow. Then there is none: it may have meant a rollback.
    return Rollout(
        **{**row._mapping, "source": source_of(row.source), "shadow_basis_points": row.shadow_basis_points or 0}
    )
