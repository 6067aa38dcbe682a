"""Programs in the database."""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import structlog
from sqlalchemy import BigInteger, Row, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from pools.calls import Program
from routing.catalog.definitions import decode_definition, encode_definition
from routing.catalog.programs import NewProgram, ProgramPage, ProgramUse, StoredProgram
from routing.errors import ProgramExists
from store.database import Database
from store.json_rows import json_rows, parameter
from store.tables import GLOBAL, UtcDateTime, programs

_log = structlog.stdlib.get_logger("poolshift.store")


class SqlProgramStore:
    """Implements `routing.catalog.programs.ProgramStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        rows = json_rows(database, key=BigInteger(), more=BigInteger(), at=UtcDateTime())
        self._add_uses = (
            update(programs)
            .where(programs.c.key == rows.c.key)
            .values(execution_count=programs.c.execution_count + rows.c.more, last_executed_at=rows.c.at)
        )

    async def load(self) -> Sequence[StoredProgram]:
        async with self._database.transaction() as connection:
            rows = await connection.execute(select(programs).order_by(programs.c.key))
            return _known(rows)

    async def add(self, new: NewProgram) -> StoredProgram:
        values = {
            "session_id": new.session_id or GLOBAL,
            "id": new.id,
            "definition": encode_definition(new.definition).decode(),
            "created_at": datetime.now(UTC),
            "execution_count": 0,
        }
        try:
            async with self._database.transaction() as connection:
                row = (await connection.execute(insert(programs).values(values).returning(programs))).one()
                await self._database.announce(connection, "program", reference(new.id, new.session_id))
        except IntegrityError:
            raise ProgramExists(new.id) from None
        return _stored(row)

    async def find(self, program_id: str, session_id: str | None) -> StoredProgram | None:
        of_it = (programs.c.id == program_id) & (programs.c.session_id == (session_id or GLOBAL))
        async with self._database.transaction() as connection:
            row = (await connection.execute(select(programs).where(of_it))).one_or_none()
        return next(iter(_known([] if row is None else [row])), None)

    async def page(self, session_id: str | None, *, limit: int, max_bytes: int, after: int) -> ProgramPage:
        of_them = (programs.c.session_id == (session_id or GLOBAL)) & (programs.c.key > after)
        sizes = select(programs.c.key, func.length(programs.c.definition)).where(of_them).order_by(programs.c.key)
        async with self._database.transaction() as connection:
            found = [(key, size) for key, size in await connection.execute(sizes.limit(limit + 1))]
            count = _fitting([size for _, size in found[:limit]], max_bytes)
            if not count:
                return ProgramPage([], has_more=False)
            on_page = of_them & (programs.c.key <= found[count - 1][0])
            rows = await connection.execute(select(programs).where(on_page).order_by(programs.c.key))
            shown, has_more = _known(rows), count < len(found)
        if has_more and not shown:
            return await self.page(session_id, limit=limit, max_bytes=max_bytes, after=found[count - 1][0])
        return ProgramPage(shown, has_more=has_more)

    async def remove(self, key: str) -> bool:
        removal = delete(programs).where(programs.c.key == int(key)).returning(programs.c.id, programs.c.session_id)
        async with self._database.transaction() as connection:
            removed = (await connection.execute(removal)).one_or_none()
            if removed is not None:
                await self._database.announce(connection, "program", reference(removed.id, removed.session_id))
        return removed is not None

    async def add_uses(self, uses: Mapping[str, ProgramUse]) -> None:
        rows = parameter((int(key), *use) for key, use in uses.items())
        async with self._database.transaction() as connection:
            await self._database.lock_counts(connection)
            await connection.execute(self._add_uses, rows)


def _fitting(sizes: Sequence[int], max_bytes: int) -> int:
    """Counts how many of these go on a page: at least one, if there is one."""
    total = 0
    for count, size in enumerate(sizes):
        total += size
        if total > max_bytes and count:
            return count
    return len(sizes)


def reference(program_id: str, session_id: str | None) -> str:
    """Names a program to the other replicas."""
    return json.dumps([program_id, session_id or None])


def _known(rows: Iterable[Row[Any]]) -> list[StoredProgram]:
    """The programs of rows, but for those that a newer replica has written and that this one cannot run."""
    known = []
    for row in rows:
        try:
            known.append(_stored(row))
        except msgspec.ValidationError as error:
            _log.warning("a program of a newer version is left out", program_id=row.id, reason=str(error))
    return known


def _stored(row: Row[Any]) -> StoredProgram:
    return StoredProgram(
        program=Program(str(row.key), row.id, decode_definition(row.definition)),
        session_id=row.session_id or None,
        created_at=row.created_at,
        execution_count=row.execution_count,
        last_executed_at=row.last_executed_at,
    )
