"""Idempotency keys in the database: the primary key decides which of several equal calls runs."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Row, delete, func, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from routing.catalog.idempotency import ALIVE_S, KeptAnswer, KeyedCall
from store.clock import moment
from store.database import Database
from store.tables import idempotency_keys as keys
from store.upsert import insert_into

_HAS_NO_ANSWER = keys.c.status.is_(None)


class SqlKeyStore:
    """Implements `routing.catalog.idempotency.KeyStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, call: KeyedCall, ttl_s: float) -> KeyedCall | None:
        async with self._database.reading() as connection:
            is_alive = (keys.c.alive_until > moment(connection)).label("is_alive")
            is_young = keys.c.created_at >= moment(connection, -ttl_s)
            query = select(keys, is_alive).where(_has_key_of(call), is_young)
            row = (await connection.execute(query)).one_or_none()
        return None if row is None else _call(row)

    async def claim(self, call: KeyedCall, ttl_s: float) -> bool:
        async with self._database.transaction() as connection:
            return await claim_key(connection, call, ttl_s)

    async def take_over(self, lost: KeyedCall, call: KeyedCall) -> bool:
        change = update(keys).where(_is(lost), _HAS_NO_ANSWER, keys.c.alive_until == lost.alive_until)
        async with self._database.transaction() as connection:
            values = {"execution_id": call.execution_id, "alive_until": moment(connection, ALIVE_S)}
            return bool((await connection.execute(change.values(values))).rowcount)

    async def renew(self, calls: Sequence[KeyedCall]) -> None:
        of_them = tuple_(keys.c.owner, keys.c.key, keys.c.execution_id).in_(
            [(call.owner, call.key, call.execution_id) for call in calls]
        )
        async with self._database.transaction() as connection:
            until = moment(connection, ALIVE_S)
            await connection.execute(update(keys).where(of_them, _HAS_NO_ANSWER).values(alive_until=until))

    async def keep(self, call: KeyedCall, answer: KeptAnswer) -> None:
        async with self._database.transaction() as connection:
            await connection.execute(update(keys).where(_is(call), _HAS_NO_ANSWER).values(_values(answer)))

    async def release(self, call: KeyedCall) -> None:
        async with self._database.transaction() as connection:
            await connection.execute(delete(keys).where(_is(call), _HAS_NO_ANSWER))

    async def drop(self, call: KeyedCall) -> bool:
        async with self._database.transaction() as connection:
            return bool((await connection.execute(delete(keys).where(_is(call)))).rowcount)

    async def lose_all(self) -> None:
        async with self._database.transaction() as connection:
            now = moment(connection)
            await connection.execute(
                update(keys).where(_HAS_NO_ANSWER, keys.c.alive_until > now).values(alive_until=now)
            )

    async def forget(self, ttl_s: float) -> None:
        async with self._database.transaction() as connection:
            await connection.execute(delete(keys).where(keys.c.created_at < moment(connection, -ttl_s)))

    async def usage(self) -> Mapping[str, tuple[int, int]]:
        query = select(keys.c.owner, func.count(), func.sum(keys.c.size)).group_by(keys.c.owner)
        async with self._database.reading() as connection:
            return {owner: (count, int(size)) for owner, count, size in await connection.execute(query)}


async def claim_key(connection: AsyncConnection, call: KeyedCall, ttl_s: float) -> bool:
    """Writes the row of a new call, with its answer if it has one; False if another call has its key."""
    await connection.execute(delete(keys).where(_has_key_of(call), keys.c.created_at < moment(connection, -ttl_s)))
    values: dict[str, Any] = {
        "owner": call.owner,
        "key": call.key,
        "fingerprint": call.fingerprint,
        "execution_id": call.execution_id,
        "created_at": moment(connection),
        "alive_until": moment(connection, ALIVE_S),
        "size": 0,
        **({} if call.answer is None else _values(call.answer)),
    }
    claim = (
        insert_into(keys, connection.dialect)
        .values(values)
        .on_conflict_do_nothing(index_elements=[keys.c.owner, keys.c.key])
    )
    return bool((await connection.execute(claim)).rowcount)


def _has_key_of(call: KeyedCall) -> ColumnElement[bool]:
    return (keys.c.owner == call.owner) & (keys.c.key == call.key)


def _is(call: KeyedCall) -> ColumnElement[bool]:
    return _has_key_of(call) & (keys.c.execution_id == call.execution_id)


def _values(answer: KeptAnswer) -> dict[str, Any]:
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in answer.headers]
    return {
        "status": answer.status,
        "headers": msgspec.json.encode(headers).decode(),
        "body": answer.body,
        "size": len(answer.body),
    }


def _call(row: Row[Any]) -> KeyedCall:
    answer = None
    if row.status is not None:
        headers = [
            (name.encode("latin-1"), value.encode("latin-1")) for name, value in msgspec.json.decode(row.headers)
        ]
        answer = KeptAnswer(row.status, headers, row.body)
    # SQLite has no booleans of its own.
    is_alive = bool(row.is_alive)
    return KeyedCall(row.owner, row.key, row.fingerprint, row.execution_id, answer, row.alive_until, is_alive)
