"""The trials of V2s in the database, one row for each identity. Replicas add to the same row."""

from collections.abc import Collection
from typing import Any

import msgspec
from sqlalchemy import Row, func, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from routing.rotation.trial import AGAINST, Calls, End, Outcome, TrialRecord
from store import clock
from store.database import Database
from store.tables import trials

_MAX_BY_LENGTH = 256
_ends = func.coalesce(trials.c.ends, 0)
_is_against = func.coalesce(trials.c.outcome, "").in_([str(outcome) for outcome in AGAINST])


class SqlTrialStore:
    """Implements `routing.rotation.trial.TrialStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, identity: str) -> TrialRecord | None:
        async with self._database.reading() as connection:
            row = (await connection.execute(select(trials).where(trials.c.identity == identity))).one_or_none()
        return None if row is None else _record(row)

    async def add(self, identity: str, calls: Calls, tried: Collection[str], *, ends: int) -> int:
        of_it = trials.c.identity == identity
        async with self._database.transaction() as connection:
            await _ensure(connection, identity)
            more = {"served": trials.c.served + calls.served, "faults": trials.c.faults + calls.faults}
            seen = {"seen_at": await clock.now(connection)}
            added = await connection.execute(update(trials).where(of_it, _ends == ends).values(more | seen))
            row = (await connection.execute(select(_ends.label("ends"), trials.c.tried).where(of_it))).one()
            if added.rowcount and tried:
                every = sorted({*_keys(row.tried), *tried})
                await connection.execute(update(trials).where(of_it).values(tried=msgspec.json.encode(every).decode()))
        return int(row.ends)

    async def begin_run(self, identity: str, begun: End) -> None:
        is_earlier = or_(trials.c.run.is_(None), trials.c.run < begun.run)
        async with self._database.transaction() as connection:
            await _ensure(connection, identity)
            values = _columns(begun) | {"seen_at": await clock.now(connection)}
            await connection.execute(update(trials).where(trials.c.identity == identity, is_earlier).values(values))

    async def end(self, identity: str, end: End) -> None:
        async with self._database.transaction() as connection:
            await end_trial(connection, identity, end)

    async def end_run(self, run: int, end: End) -> None:
        of_run = trials.c.run == run
        async with self._database.transaction() as connection:
            if end.outcome in AGAINST:
                worded = (trials.c.against_run == run) & _is_against
                words = _columns(end) | _against(end)
                await connection.execute(update(trials).where(of_run, worded).values(words))
                await connection.execute(update(trials).where(of_run, ~_is_against).values(words | _afresh()))
                return
            values = _columns(end) | (_NOTHING_AGAINST if end.outcome is Outcome.PROVEN else {})
            under_way = trials.c.outcome == str(Outcome.RAMPING)
            await connection.execute(update(trials).where(of_run, under_way).values(values))


async def end_trial(connection: AsyncConnection, identity: str, end: End) -> None:
    """Writes an end against a V2, as `SqlTrialStore.end`, in a transaction of its owner's."""
    await _ensure(connection, identity)
    is_new = or_(trials.c.against_at.is_(None), trials.c.against_at != end.at)
    values = _columns(end) | _against(end) | _afresh() | {"seen_at": await clock.now(connection)}
    del values["run"]  # a ramp of before is this V2's all the same, and must not begin or end again
    await connection.execute(update(trials).where(trials.c.identity == identity, is_new).values(values))


async def _ensure(connection: AsyncConnection, identity: str) -> None:
    """Makes a row if there is none yet. Another replica may make it at the same moment."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    values = {"identity": identity, "served": 0, "faults": 0, "seen_at": await clock.now(connection)}
    await connection.execute(dialect.insert(trials).values(values).on_conflict_do_nothing())


def _columns(end: End) -> dict[str, Any]:
    return {
        "run": end.run,
        "outcome": str(end.outcome),
        "by": end.by[:_MAX_BY_LENGTH],
        "reason": end.reason,
        "at": end.at,
    }


def _against(end: End) -> dict[str, Any]:
    return {
        "against": str(end.outcome),
        "against_by": end.by[:_MAX_BY_LENGTH],
        "against_reason": end.reason,
        "against_at": end.at,
        "against_run": end.run,
    }


def _afresh() -> dict[str, Any]:
    """The counts at their beginning."""
    return {"served": 0, "faults": 0, "tried": None, "ends": _ends + 1}


_NOTHING_AGAINST: dict[str, Any] = dict.fromkeys(
    ("against", "against_by", "against_reason", "against_at", "against_run")
)


def _record(row: Row[Any]) -> TrialRecord:
    end = _end(row.outcome, row.by, row.reason, row.at, row.run)
    against = _end(row.against, row.against_by, row.against_reason, row.against_at, row.against_run)
    if against is None and end is not None and end.outcome in AGAINST:  # as an older replica has written it
        against = end
    return TrialRecord(
        calls=Calls(row.served, row.faults),
        tried=frozenset(_keys(row.tried)),
        end=end,
        against=against,
        ends=row.ends or 0,
    )


def _end(outcome: str | None, by: str, reason: str | None, at: Any, run: int | None) -> End | None:
    if outcome is None:
        return None
    try:
        return End(Outcome(outcome), by, reason, at, run)
    except ValueError:  # of a newer replica
        return None


def _keys(tried: str | None) -> list[str]:
    return [] if tried is None else msgspec.json.decode(tried, type=list[str])
