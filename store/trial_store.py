"""The trials of V2s in the database, one row for each identity. Replicas add to the same row."""

from typing import Any

from sqlalchemy import ColumnElement, Row, insert, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from routing.rotation.trial import End, Outcome, TrialRecord
from store import clock
from store.database import Database
from store.tables import trials

_MAX_BY_LENGTH = 256


class SqlTrialStore:
    """Implements `routing.rotation.trial.TrialStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, identity: str) -> TrialRecord | None:
        async with self._database.reading() as connection:
            row = (await connection.execute(select(trials).where(trials.c.identity == identity))).one_or_none()
        return None if row is None else TrialRecord(row.served, row.faults, _end(row))

    async def add(self, identity: str, served: int, faults: int) -> None:
        more = {"served": trials.c.served + served, "faults": trials.c.faults + faults}
        await self._upsert(identity, None, more, {"served": served, "faults": faults})

    async def begin_run(self, identity: str, begun: End) -> None:
        is_earlier = or_(trials.c.run.is_(None), trials.c.run < begun.run)
        await self._upsert(identity, is_earlier, _columns(begun), _columns(begun))

    async def end(self, identity: str, end: End) -> None:
        await self._upsert(identity, None, _columns(end), _columns(end))

    async def end_run(self, run: int, end: End) -> None:
        async with self._database.transaction() as connection:
            await connection.execute(update(trials).where(trials.c.run == run).values(_columns(end)))

    async def _upsert(
        self, identity: str, which: ColumnElement[bool] | None, change: dict[str, Any], new: dict[str, Any]
    ) -> None:
        """Changes a row, if `which` holds of it, or makes it. Another replica may make it at the same moment."""
        changing = update(trials).where(trials.c.identity == identity)
        if which is not None:
            changing = changing.where(which)
        try:
            async with self._database.transaction() as connection:
                now = {"seen_at": await clock.now(connection)}
                changing = changing.values(change | now)
                if (await connection.execute(changing)).rowcount:
                    return
                is_there = select(trials.c.identity).where(trials.c.identity == identity)
                if (await connection.execute(is_there)).one_or_none() is None:
                    values = {"identity": identity, "served": 0, "faults": 0} | new | now
                    await connection.execute(insert(trials).values(values))
        except IntegrityError:
            async with self._database.transaction() as connection:
                await connection.execute(changing)


async def end_trial(connection: AsyncConnection, identity: str, end: End) -> None:
    """Puts `end` in place of a trial's former one, in a transaction of its owner's."""
    values = _columns(end) | {"seen_at": await clock.now(connection)}
    if not (await connection.execute(update(trials).where(trials.c.identity == identity).values(values))).rowcount:
        await connection.execute(insert(trials).values({"identity": identity, "served": 0, "faults": 0} | values))


def _columns(end: End) -> dict[str, Any]:
    return {
        "run": end.run,
        "outcome": str(end.outcome),
        "by": end.by[:_MAX_BY_LENGTH],
        "reason": end.reason,
        "at": end.at,
    }


def _end(row: Row[Any]) -> End | None:
    if row.outcome is None:
        return None
    try:
        return End(Outcome(row.outcome), row.by, row.reason, row.at, row.run)
    except ValueError:  # of a newer replica
        return None
