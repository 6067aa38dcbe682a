"""Ramps, verdicts and evidence in the database: the primary key decides which of two writers moved the ramp."""

import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import Row, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from routing.rollout import ramp_json
from routing.rollout.ramp import Ramp
from routing.rollout.ramp_clock import StepTimes
from routing.rollout.ramp_store import (
    Decision,
    Exchange,
    FoundRamp,
    ReplicaReport,
    Snapshot,
    StaleRamp,
    StoredRamp,
)
from store import clock
from store.database import Database
from store.outbox import RAMP
from store.tables import judge_evidence, leases, outbox, ramps, replicas, rollout_decisions
from store.upsert import insert_into

LEADER = "ramp"
LEASE_S = 1.5
"""A leader that says nothing for so long, in seconds, has lost the lease."""
REPORTED_FOR = timedelta(minutes=1)
"""A replica that has said nothing for longer is no longer listed."""
_encode = msgspec.json.encode
_decode = msgspec.json.decode


class SqlRampStore:
    """Implements `routing.rollout.ramp_store.RampStore`."""

    def __init__(self, database: Database, *, notifies: bool) -> None:
        """Queues a notification of each change of state if `notifies`."""
        self._database = database
        self._notifies = notifies

    async def find(self) -> FoundRamp | None:
        async with self._database.reading() as connection:
            stored, now = await _latest(connection), await clock.now(connection)
            if stored is None:
                return None
            columns = (judge_evidence.c.at, replicas.c.seen_at)
            signs = [await connection.scalar(select(func.max(column))) for column in columns]
        lived_until = max(at for at in (stored.at, *signs) if at is not None)
        idle_s = max(0.0, (now - lived_until).total_seconds())
        return FoundRamp(stored, (lived_until - stored.at).total_seconds(), idle_s)

    async def append(self, ramp: Ramp, times: StepTimes, *, after: int) -> StoredRamp:
        try:
            async with self._database.transaction() as connection:
                stored = StoredRamp(after + 1, ramp, await clock.now(connection), times)
                latest = await _latest(connection)
                if latest is not None and latest.revision != after:
                    raise StaleRamp(latest)
                data = ramp_json.to_json(ramp)
                kept = {**data, "times": ramp_json.times_to_json(times)}
                values = {"revision": stored.revision, "at": stored.at, "data": _encode(kept).decode()}
                await connection.execute(insert(ramps).values(values))
                if self._notifies and (latest is None or _is_news(latest.ramp, ramp)):
                    event = {"revision": stored.revision, "at": stored.at.isoformat(), **data}
                    await connection.execute(insert(outbox).values(_new_event(event, stored.at)))
                await self._database.announce(connection, "ramp", str(stored.revision))
        except IntegrityError:  # another replica was faster
            async with self._database.reading() as connection:
                current = await _latest(connection)
            assert current is not None
            raise StaleRamp(current) from None
        return stored

    async def decide(self, decision: Decision) -> None:
        values = {
            "verdict": decision.verdict,
            "guardrail": decision.guardrail,
            "evidence": _encode(decision.evidence).decode(),
        }
        async with self._database.transaction() as connection:
            at = clock.moment(connection)
            await connection.execute(insert(rollout_decisions).values(**values, at=at))

    async def decisions(self, *, limit: int, before: int | None = None) -> Sequence[Decision]:
        query = select(rollout_decisions).order_by(rollout_decisions.c.key.desc()).limit(limit)
        if before is not None:
            query = query.where(rollout_decisions.c.key < before)
        async with self._database.reading() as connection:
            return [_decision(row) for row in await connection.execute(query)]

    async def keep(self, report: ReplicaReport, generation: str, snapshot: Snapshot | None) -> None:
        async with self._database.transaction() as connection:
            await _report(connection, report)
            if snapshot is not None:
                await _put_evidence(connection, generation, report.id, snapshot)

    async def evidence(self, generation: str) -> Mapping[str, Snapshot]:
        async with self._database.reading() as connection:
            return await _evidence(connection, generation)

    async def exchange(self, report: ReplicaReport, generation: str, snapshot: Snapshot | None) -> Exchange:
        async with self._database.transaction() as connection:
            is_leader = await _lead(connection, report.id)
            await _report(connection, report)
            if snapshot is not None:
                await _put_evidence(connection, generation, report.id, snapshot)
            return Exchange(
                is_leader,
                await _reports(connection),
                await _latest(connection),
                await _evidence(connection, generation) if snapshot is not None else {},
            )


async def _put_evidence(connection: AsyncConnection, generation: str, replica: str, snapshot: Snapshot) -> None:
    data, now = _encode(snapshot).decode(), clock.moment(connection)
    mine = judge_evidence.c.replica == replica
    written = await connection.execute(
        update(judge_evidence).where(mine, judge_evidence.c.generation == generation).values(data=data, at=now)
    )
    if not written.rowcount:
        await connection.execute(delete(judge_evidence).where(mine))
        values = {"generation": generation, "replica": replica, "data": data, "at": now}
        await connection.execute(insert(judge_evidence).values(values))


async def _evidence(connection: AsyncConnection, generation: str) -> Mapping[str, Snapshot]:
    query = select(judge_evidence).where(judge_evidence.c.generation == generation)
    return {row.replica: _decode(row.data) for row in await connection.execute(query)}


async def _lead(connection: AsyncConnection, replica: str) -> bool:
    """Takes or renews the lease, by the database's clock, since the replicas' own may differ."""
    mine = {"holder": replica, "expires_at": clock.current_moment(connection, LEASE_S)}
    is_free = (leases.c.holder == replica) | (leases.c.expires_at < clock.current_moment(connection))
    take = insert_into(leases, connection.dialect).values(name=LEADER, **mine)
    taken = take.on_conflict_do_update(index_elements=[leases.c.name], set_=mine, where=is_free)
    return bool((await connection.execute(taken)).rowcount)


async def _report(connection: AsyncConnection, report: ReplicaReport) -> None:
    values = {
        "seen_at": clock.moment(connection),
        "rollout_revision": report.rollout_revision,
        "v1_calls": report.calls[0],
        "v2_calls": report.calls[1],
    }
    written = await connection.execute(update(replicas).where(replicas.c.id == report.id).values(values))
    if not written.rowcount:
        is_old = replicas.c.seen_at < clock.moment(connection, -10 * REPORTED_FOR.total_seconds())
        await connection.execute(delete(replicas).where(is_old))
        await connection.execute(insert(replicas).values(id=report.id, **values))


async def _reports(connection: AsyncConnection) -> Sequence[ReplicaReport]:
    """The reports of the last minute. Their age is by the database's clock, which no replica's own need agree with."""
    now, heard_at = await clock.now(connection), time.monotonic()
    is_new = replicas.c.seen_at >= now - REPORTED_FOR
    return [
        ReplicaReport(
            row.id,
            row.seen_at,
            row.rollout_revision,
            (row.v1_calls, row.v2_calls),
            heard_at - (now - row.seen_at).total_seconds(),
        )
        for row in await connection.execute(select(replicas).where(is_new).order_by(replicas.c.id))
    ]


async def _latest(connection: AsyncConnection) -> StoredRamp | None:
    row = (await connection.execute(select(ramps).order_by(ramps.c.revision.desc()).limit(1))).one_or_none()
    if row is None:
        return None
    data = _decode(row.data)
    return StoredRamp(row.revision, ramp_json.from_json(data), row.at, ramp_json.times_from_json(data))


def _is_news(before: Ramp, after: Ramp) -> bool:
    return (before.state, before.step, before.is_alarmed) != (after.state, after.step, after.is_alarmed)


def _new_event(event: Mapping[str, Any], at: datetime) -> dict[str, Any]:
    return {"kind": RAMP, "data": _encode(event).decode(), "at": at, "attempts": 0, "next_at": at}


def _decision(row: Row[Any]) -> Decision:
    return Decision(row.verdict, row.guardrail, _decode(row.evidence), row.at, row.key)
