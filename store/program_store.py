"""Programs in the database."""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import msgspec
import structlog
from sqlalchemy import BigInteger, ColumnElement, Row, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from pools.calls import Program
from routing.catalog.compatibility import ensure_compatible
from routing.catalog.definitions import decode_definition, encode_definition
from routing.catalog.own_definitions import OwnDefinition, nothing_to_try
from routing.catalog.programs import NewProgram, ProgramPage, ProgramUse, PutResult, StoredProgram
from routing.catalog.revisions import Precondition, RevisionPage
from routing.errors import ProgramExists, StoreUnavailable
from routing.versions import Version
from store import revision_rows
from store.database import Database
from store.json_rows import json_rows, parameter
from store.paging import fitting
from store.tables import GLOBAL, UtcDateTime, program_v2_revisions, programs

_PUT_ATTEMPTS = 10
"""Attempts at a change. Each ends early only if another writer has changed the same program meanwhile."""

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
        # A replica that does not know V2's own definitions deletes a program without the former ones of these.
        orphans = delete(program_v2_revisions).where(program_v2_revisions.c.program_key.not_in(select(programs.c.key)))
        async with self._database.transaction() as connection:
            await connection.execute(orphans)
            rows = await connection.execute(select(programs).order_by(programs.c.key))
            return _known(rows)

    async def add(self, new: NewProgram) -> StoredProgram:
        try:
            async with self._database.transaction() as connection:
                row = await self._insert(connection, new)
        except IntegrityError:
            raise ProgramExists(new.id) from None
        return _stored(row)

    async def put(self, new: NewProgram, condition: Precondition) -> PutResult:
        for _ in range(_PUT_ATTEMPTS):
            with suppress(IntegrityError):  # another writer has created it since it was looked for
                async with self._database.transaction() as connection:
                    result = await self._try_put(connection, new, condition)
                if result is not None:
                    return result
        raise StoreUnavailable(f"others keep changing the program {new.id!r}")

    async def find(self, program_id: str, session_id: str | None) -> StoredProgram | None:
        async with self._database.transaction() as connection:
            row = (await connection.execute(select(programs).where(_is(program_id, session_id)))).one_or_none()
        return next(iter(_known([] if row is None else [row])), None)

    async def page(self, session_id: str | None, *, limit: int, max_bytes: int, after: int) -> ProgramPage:
        of_them = (programs.c.session_id == (session_id or GLOBAL)) & (programs.c.key > after)
        size = func.length(programs.c.definition) + func.coalesce(func.length(programs.c.v2_definition), 0)
        sizes = select(programs.c.key, size).where(of_them).order_by(programs.c.key)
        async with self._database.transaction() as connection:
            found = [(key, size) for key, size in await connection.execute(sizes.limit(limit + 1))]
            count = fitting([size for _, size in found[:limit]], max_bytes)
            if not count:
                return ProgramPage([], has_more=False)
            on_page = of_them & (programs.c.key <= found[count - 1][0])
            rows = await connection.execute(select(programs).where(on_page).order_by(programs.c.key))
            shown, has_more = _known(rows), count < len(found)
        if has_more and not shown:
            return await self.page(session_id, limit=limit, max_bytes=max_bytes, after=found[count - 1][0])
        return ProgramPage(shown, has_more=has_more)

    async def put_v2(self, new: NewProgram, condition: Precondition) -> PutResult:
        for _ in range(_PUT_ATTEMPTS):
            async with self._database.transaction() as connection:
                result = await self._try_put_v2(connection, new, condition)
            if result is not None:
                return result
        raise StoreUnavailable(f"others keep changing the program {new.id!r}")

    async def take_back_v2(self, key: str) -> StoredProgram | None:
        for _ in range(_PUT_ATTEMPTS):
            async with self._database.transaction() as connection:
                found = await self._lock(connection, programs.c.key == int(key))
                if found is None or found.v2_definition is None:
                    return None
                row = await revision_rows.revise_v2(connection, found, None, None)
                if row is not None:
                    return await self._changed(connection, row)
        raise StoreUnavailable("others keep changing the program")

    async def promote_v2(self, key: str, revision: int, by: str | None) -> StoredProgram | None:
        for _ in range(_PUT_ATTEMPTS):
            async with self._database.transaction() as connection:
                found = await self._lock(connection, programs.c.key == int(key))
                if found is None or found.v2_definition is None or found.v2_revision != revision:
                    return None
                row = await revision_rows.promote_v2(connection, found, by)
                if row is not None:
                    return await self._changed(connection, row)
        raise StoreUnavailable("others keep changing the program")

    @staticmethod
    async def promote_all_v2(connection: AsyncConnection, by: str | None) -> list[StoredProgram]:
        """Makes all of V2's own definitions everyone's, in a transaction that its owner ends and announces.

        All of them are locked before the first one is changed: whoever changes one meanwhile comes before or after.
        """
        own = select(programs).where(programs.c.v2_definition.is_not(None)).order_by(programs.c.key).with_for_update()
        found = (await connection.execute(own)).all()
        rows = [await revision_rows.promote_v2(connection, one, by) for one in found]
        return _known(row for row in rows if row is not None)

    async def revisions(
        self, key: str, *, limit: int, max_bytes: int, before: int | None, of_v2: bool = False
    ) -> RevisionPage:
        async with self._database.transaction() as connection:
            return await revision_rows.page(
                connection, int(key), limit=limit, max_bytes=max_bytes, before=before, of_v2=of_v2
            )

    async def remove(self, key: str) -> bool:
        removal = delete(programs).where(programs.c.key == int(key)).returning(programs.c.id, programs.c.session_id)
        async with self._database.transaction() as connection:
            removed = (await connection.execute(removal)).one_or_none()
            if removed is not None:
                await revision_rows.forget(connection, int(key))
                await self._database.announce(connection, "program", reference(removed.id, removed.session_id))
        return removed is not None

    async def add_uses(self, uses: Mapping[str, ProgramUse]) -> None:
        rows = parameter((int(key), *use) for key, use in uses.items())
        async with self._database.transaction() as connection:
            await self._database.lock_counts(connection)
            await connection.execute(self._add_uses, rows)

    async def _try_put(self, connection: AsyncConnection, new: NewProgram, condition: Precondition) -> PutResult | None:
        """Changes a program; None if another writer has changed it since it was read. Raises IntegrityError too."""
        found = await self._lock(connection, _is(new.id, new.session_id))
        condition.check(new.id, None if found is None else revision_rows.revision_of(found))
        if found is None:
            return PutResult(_stored(await self._insert(connection, new)), is_new=True)
        definition = encode_definition(new.definition).decode()
        if _is_in_force(definition, found.definition):
            return PutResult(_stored(found), is_new=False)
        own = _own_definition(found)
        if own is not None:
            await ensure_compatible(new.definition.signature, own.program.definition.signature)
        row = await revision_rows.revise(connection, found, definition, new.created_by)
        return None if row is None else PutResult(await self._changed(connection, row), is_new=False)

    async def _try_put_v2(
        self, connection: AsyncConnection, new: NewProgram, condition: Precondition
    ) -> PutResult | None:
        """Changes V2's own definition; None if another writer has changed the program since it was read."""
        found = await self._lock(connection, _is(new.id, new.session_id))
        if found is None:
            raise nothing_to_try(new.id, new.session_id)
        before = _stored(found)
        condition.check(new.id, None if before.v2 is None else before.v2_revision)
        definition = encode_definition(new.definition).decode()
        if before.v2 is not None and _is_in_force(definition, found.v2_definition):
            return PutResult(before, is_new=False)
        await ensure_compatible(before.program.definition.signature, new.definition.signature)
        row = await revision_rows.revise_v2(connection, found, definition, new.created_by)
        return None if row is None else PutResult(await self._changed(connection, row), is_new=before.v2 is None)

    async def _lock(self, connection: AsyncConnection, which: ColumnElement[bool]) -> Row[Any] | None:
        query = select(programs).where(which).with_for_update()  # SQLite has no such lock
        return (await connection.execute(query)).one_or_none()

    async def _changed(self, connection: AsyncConnection, row: Row[Any]) -> StoredProgram:
        """Tells the other replicas of a program that has changed."""
        await self._database.announce(connection, "program", reference(row.id, row.session_id))
        return _stored(row)

    async def _insert(self, connection: AsyncConnection, new: NewProgram) -> Row[Any]:
        values = {
            "session_id": new.session_id or GLOBAL,
            "id": new.id,
            "definition": encode_definition(new.definition).decode(),
            "created_at": datetime.now(UTC),
            "execution_count": 0,
            "revision": 1,
            "revised_by": new.created_by,
        }
        row: Row[Any] = (await connection.execute(insert(programs).values(values).returning(programs))).one()
        await self._database.announce(connection, "program", reference(new.id, new.session_id))
        return row


def reference(program_id: str, session_id: str | None) -> str:
    """Names a program to the other replicas."""
    return json.dumps([program_id, session_id or None])


def _is(program_id: str, session_id: str | None) -> ColumnElement[bool]:
    return (programs.c.id == program_id) & (programs.c.session_id == (session_id or GLOBAL))


def _known(rows: Iterable[Row[Any]]) -> list[StoredProgram]:
    """The programs of rows, but for those that a newer replica has written and that this one cannot run."""
    known = []
    for row in rows:
        try:
            known.append(_stored(row))
        except msgspec.ValidationError as error:
            _log.warning("a program of a newer version is left out", program_id=row.id, reason=str(error))
    return known


def _is_in_force(definition: str, stored: str) -> bool:
    """Tells if this is the stored definition, whatever version has written that."""
    try:
        return encode_definition(decode_definition(stored)).decode() == definition
    except msgspec.ValidationError:
        return False


def _own_definition(row: Row[Any]) -> OwnDefinition | None:
    """V2's own definition, unless a newer replica has written one that this one cannot run."""
    if row.v2_definition is None:
        return None
    try:
        definition = decode_definition(row.v2_definition)
    except msgspec.ValidationError as error:
        _log.warning("a definition of V2's of a newer version is left out", program_id=row.id, reason=str(error))
        return None
    program = Program(str(row.key), row.id, definition, revision_rows.v2_revision_of(row), Version.V2)
    return OwnDefinition(program, row.v2_revised_at, row.v2_revised_by)


def _stored(row: Row[Any]) -> StoredProgram:
    definition = decode_definition(row.definition)
    return StoredProgram(
        program=Program(str(row.key), row.id, definition, revision_rows.revision_of(row)),
        session_id=row.session_id or None,
        created_at=row.created_at,
        execution_count=row.execution_count,
        last_executed_at=row.last_executed_at,
        v2=_own_definition(row),
        v2_revision=revision_rows.v2_revision_of(row),
    )
