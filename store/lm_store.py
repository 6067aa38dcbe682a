"""LM settings in the database: keys too, as they came, since an LM wants them so."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Row, delete, insert, select

from poolshift.worker.lm import LMSettings
from routing.catalog.lms import StoredLM
from store.database import Database
from store.tables import GLOBAL, lms


class SqlLMStore:
    """Implements `routing.catalog.lms.LMStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self) -> Sequence[StoredLM]:
        async with self._database.transaction() as connection:
            return [_stored(row) for row in await connection.execute(select(lms))]

    async def find(self, session_id: str | None) -> StoredLM | None:
        query = select(lms).where(lms.c.session_id == (session_id or GLOBAL))
        async with self._database.transaction() as connection:
            row = (await connection.execute(query)).one_or_none()
        return _stored(row) if row is not None else None

    async def put(self, session_id: str | None, settings: LMSettings, overrides: str | None, by: str) -> StoredLM:
        values = {
            "session_id": session_id or GLOBAL,
            "model": settings.model,
            "api_base": settings.api_base,
            "api_key": settings.api_key,
            "temperature": settings.temperature,
            "max_tokens": settings.max_tokens,
            "overrides": overrides,
            "updated_by": by,
            "updated_at": datetime.now(UTC),
        }
        async with self._database.transaction() as connection:
            await connection.execute(delete(lms).where(lms.c.session_id == values["session_id"]))
            row = (await connection.execute(insert(lms).values(values).returning(lms))).one()
            await self._database.announce(connection, "lm", session_id or GLOBAL)
        return _stored(row)

    async def remove(self, session_id: str) -> None:
        async with self._database.transaction() as connection:
            await connection.execute(delete(lms).where(lms.c.session_id == session_id))
            await self._database.announce(connection, "lm", session_id)


def _stored(row: Row[Any]) -> StoredLM:
    return StoredLM(
        session_id=row.session_id or None,
        settings=LMSettings(row.model, row.api_base, row.api_key, row.temperature, row.max_tokens),
        overrides=row.overrides,
        updated_by=row.updated_by,
        updated_at=row.updated_at,
    )
