"""Deleted programs in the database: rows that have moved to a table of their own, under the keys that they had."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Row, delete, func, insert, literal, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from poolshift.worker.definitions import Definition
from routing.catalog.compatibility import ensure_compatible
from routing.catalog.definitions import decode_definition, encode_definition
from routing.catalog.deleted_programs import KEPT_BYTES, KEPT_PROGRAMS, Deletion, taken
from routing.catalog.owners import Editor
from routing.catalog.programs import NewProgram, StoredProgram
from store import clock, revision_rows
from store.database import Database
from store.deletions import deletions
from store.paging import fitting
from store.program_store import program_of, reference
from store.tables import deleted_programs, program_revisions, program_v2_revisions, programs

_COLUMNS = tuple(programs.c.keys())
"""The columns that both tables have: all of a program's."""


class SqlDeletedProgramStore:
    """Implements `routing.catalog.deleted_programs.DeletedProgramStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def delete(self, key: str, editor: Editor, *, is_final: bool) -> bool:
        of_key = programs.c.key == int(key)
        async with self._database.transaction() as connection:
            found = (await connection.execute(select(programs).where(of_key).with_for_update())).one_or_none()
            if found is None:
                return False
            await connection.execute(delete(programs).where(of_key))
            if is_final:
                await revision_rows.forget(connection, [found.key])
            else:
                await _keep(connection, found, editor)
            await self._database.announce(connection, "program", reference(found.id, found.session_id))
        return True

    async def deletions(self, program_id: str, session_id: str | None, within_s: float) -> Sequence[Deletion]:
        async with self._database.reading() as connection:
            return await deletions(connection, program_id, session_id, within_s)

    async def find(self, number: int) -> StoredProgram | None:
        async with self._database.reading() as connection:
            of_number = deleted_programs.c.key == number
            row = (await connection.execute(select(deleted_programs).where(of_number))).one_or_none()
        return None if row is None else program_of(row)

    async def definition(self, key: str, revision: int) -> Definition | None:
        async with self._database.reading() as connection:
            found = await revision_rows.definition_at(connection, int(key), revision)
        return None if found is None else decode_definition(found)

    async def restore(self, deleted: StoredProgram, new: NewProgram | None) -> StoredProgram | None:
        of_key = deleted_programs.c.key == int(deleted.program.key)
        back = delete(deleted_programs).where(of_key).returning(*(deleted_programs.c[name] for name in _COLUMNS))
        try:
            async with self._database.transaction() as connection:
                found = (await connection.execute(back)).one_or_none()
                if found is None:
                    return None
                values = dict(found._mapping)
                row = (await connection.execute(insert(programs).values(values).returning(programs))).one()
                if new is not None:
                    row = await _revised(connection, row, new)
                await self._database.announce(connection, "program", reference(row.id, row.session_id))
        except IntegrityError:
            raise taken(deleted.program.id, int(deleted.program.key)) from None
        return program_of(row)

    async def forget(self, after_s: float) -> None:
        async with self._database.transaction() as connection:
            await _forget(connection, deleted_programs.c.deleted_at < clock.moment(connection, -after_s))


async def _keep(connection: AsyncConnection, found: Row[Any], editor: Editor) -> None:
    """Puts a program's row among the deleted ones, and forgets the oldest that are more than are kept."""
    more = {
        "deleted_at": await clock.now(connection),
        "deleted_by": editor.name,
        "account": editor.account,
        "size": await _size(connection, found),
    }
    await connection.execute(insert(deleted_programs).values({name: getattr(found, name) for name in _COLUMNS} | more))
    of_account = deleted_programs.c.account == editor.account
    newest = select(deleted_programs.c.key, deleted_programs.c.size).where(of_account)
    newest = newest.order_by(deleted_programs.c.deleted_at.desc(), deleted_programs.c.key.desc())
    sizes = [(row.key, row.size) for row in await connection.execute(newest)]
    kept = min(fitting([size for _, size in sizes], KEPT_BYTES), KEPT_PROGRAMS)
    if dropped := [key for key, _ in sizes[kept:]]:
        await _forget(connection, deleted_programs.c.key.in_(dropped))


async def _size(connection: AsyncConnection, found: Row[Any]) -> int:
    """Adds up the sizes of all definitions of a program."""
    size = len(found.definition) + len(found.v2_definition or "")
    for table in (program_revisions, program_v2_revisions):
        sizes = select(func.coalesce(func.sum(func.length(table.c.definition)), literal(0)))
        size += int((await connection.execute(sizes.where(table.c.program_key == found.key))).scalar_one())
    return size


async def _forget(connection: AsyncConnection, which: ColumnElement[bool]) -> None:
    gone = await connection.execute(delete(deleted_programs).where(which).returning(deleted_programs.c.key))
    keys: Sequence[int] = [row.key for row in gone]
    if keys:
        await revision_rows.forget(connection, keys)


async def _revised(connection: AsyncConnection, row: Row[Any], new: NewProgram) -> Row[Any]:
    """Makes a definition the next revision of a program that has just been put back."""
    own = program_of(row).v2
    if own is not None:
        await ensure_compatible(new.definition.signature, own.program.definition.signature)
    definition = encode_definition(new.definition).decode()
    return await revision_rows.revise(connection, row, definition, new.editor.name) or row
