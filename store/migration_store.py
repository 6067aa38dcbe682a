"""Validations, what people have confirmed, and the calls by day in the database."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Row, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from routing.migration.checklist import Item, ItemState, Tick, Validation
from routing.migration.usage import DayOfTimes, DayOfUse
from routing.versions import Reason, Version
from store import clock
from store.database import Database
from store.tables import migration_ticks, usage_days, usage_times, validations
from store.upsert import insert_into

_MAX_BY_LENGTH = 256
_encode = msgspec.json.encode
_decode = msgspec.json.decode


class SqlMigrationStore:
    """Implements `routing.migration.store.MigrationStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def latest(self) -> Validation | None:
        return await self._newest(validations.c.key > 0)

    async def before(self, key: int) -> Validation | None:
        return await self._newest(validations.c.key < key)

    async def add(self, by: str, pools: str, items: tuple[Item, ...], report: Mapping[str, Any]) -> Validation:
        data = {"pools": pools, "items": [_item_json(one) for one in items], "report": dict(report)}
        async with self._database.transaction() as connection:
            at = await clock.now(connection)
            values: dict[str, Any] = {"at": at, "by": by[:_MAX_BY_LENGTH], "data": _encode(data).decode()}
            inserted = await connection.execute(insert(validations).values(values))
        assert inserted.inserted_primary_key is not None
        return Validation(inserted.inserted_primary_key[0], values["at"], values["by"], pools, items, report)

    async def ticks(self) -> Mapping[str, Tick]:
        async with self._database.reading() as connection:
            rows = await connection.execute(select(migration_ticks))
            return {row.item: Tick(row.item, row.by, row.at, row.note) for row in rows}

    async def tick(self, item: str, by: str, note: str | None) -> None:
        async with self._database.transaction() as connection:
            values = {"item": item, "by": by[:_MAX_BY_LENGTH], "at": clock.moment(connection), "note": note}
            await connection.execute(delete(migration_ticks).where(migration_ticks.c.item == item))
            await connection.execute(insert(migration_ticks).values(values))

    async def untick(self, item: str) -> None:
        async with self._database.transaction() as connection:
            await connection.execute(delete(migration_ticks).where(migration_ticks.c.item == item))

    async def _newest(self, where: ColumnElement[bool]) -> Validation | None:
        query = select(validations).where(where).order_by(validations.c.key.desc()).limit(1)
        async with self._database.reading() as connection:
            row = (await connection.execute(query)).one_or_none()
        return None if row is None else _validation(row)


class SqlUsageStore:
    """Implements `routing.migration.usage.UsageStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, rows: Sequence[DayOfUse], times: Sequence[DayOfTimes]) -> None:
        async with self._database.transaction() as connection:
            for one in sorted(times, key=lambda one: (one.day, one.version)):
                await self._add_times(connection, one)
            for row in sorted(rows, key=lambda row: (row.day, row.version, row.reason)):
                await self._add(connection, row)

    async def since(self, day: str) -> Sequence[DayOfUse]:
        query = select(usage_days).where(usage_days.c.day >= day).order_by(usage_days.c.day)
        async with self._database.reading() as connection:
            rows = (await connection.execute(query)).all()
        return [
            DayOfUse(row.day, Version(row.version), Reason(row.reason), row.calls, row.peak_per_minute) for row in rows
        ]

    async def times_since(self, day: str) -> Sequence[DayOfTimes]:
        query = select(usage_times).where(usage_times.c.day >= day).order_by(usage_times.c.day)
        async with self._database.reading() as connection:
            rows = (await connection.execute(query)).all()
        return [
            DayOfTimes(row.day, Version(row.version), tuple(_decode(row.counts)), row.seconds, row.waited_s)
            for row in rows
        ]

    async def _add_times(self, connection: AsyncConnection, new: DayOfTimes) -> None:
        """Adds to the day's row, which is locked meanwhile: another replica may add to it, too."""
        key = {"day": new.day, "version": new.version}
        nothing = {"counts": "[]", "seconds": 0.0, "waited_s": 0.0}
        new_row = insert_into(usage_times, connection.dialect).values({**key, **nothing})
        await connection.execute(new_row.on_conflict_do_nothing())
        mine = (usage_times.c.day == new.day) & (usage_times.c.version == new.version)
        row = (await connection.execute(select(usage_times).where(mine).with_for_update())).one()
        counts, seconds, waited_s = _decode(row.counts), row.seconds, row.waited_s
        if len(counts) != len(new.counts):  # the row is new, or of a release with other buckets
            counts, seconds, waited_s = [0] * len(new.counts), 0.0, 0.0
        grown = {
            "counts": _encode([one + other for one, other in zip(counts, new.counts, strict=True)]).decode(),
            "seconds": seconds + new.seconds,
            "waited_s": waited_s + new.waited_s,
        }
        await connection.execute(update(usage_times).where(mine).values(grown))

    async def _add(self, connection: AsyncConnection, row: DayOfUse) -> None:
        values = {
            "day": row.day,
            "version": row.version,
            "reason": row.reason,
            "calls": row.calls,
            "peak_per_minute": row.peak_per_minute,
        }
        new = insert_into(usage_days, connection.dialect).values(values)
        greatest = func.greatest if self._database.is_postgresql else func.max
        grown = {
            "calls": usage_days.c.calls + new.excluded.calls,
            "peak_per_minute": greatest(usage_days.c.peak_per_minute, new.excluded.peak_per_minute),
        }
        await connection.execute(new.on_conflict_do_update(index_elements=["day", "version", "reason"], set_=grown))


def _item_json(item: Item) -> dict[str, str]:
    return {"item": item.item, "state": str(item.state), "evidence": item.evidence, "how": item.how}


def _validation(row: Row[Any]) -> Validation:
    data = _decode(row.data)
    items = tuple(Item(one["item"], ItemState(one["state"]), one["evidence"], one["how"]) for one in data["items"])
    return Validation(row.key, row.at, row.by, data["pools"], items, data["report"])
