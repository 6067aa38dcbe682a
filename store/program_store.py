"""Programs in the database."""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

import msgspec
import structlog
from sqlalchemy import BigInteger, ColumnElement, Row, Table, delete, func, insert, select, tuple_, union_all, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from pools.calls import Program
from routing.catalog.compatibility import ensure_compatible
from routing.catalog.definitions import decode_definition, encode_definition, is_shared
from routing.catalog.own_definitions import OwnDefinition, no_program_of_v1
from routing.catalog.programs import (
    NewProgram,
    ProgramChange,
    ProgramPage,
    ProgramUse,
    PutResult,
    StoredProgram,
)
from routing.catalog.revisions import Precondition, RevisionPage
from routing.errors import NothingToDemote, ProgramExists, StoreUnavailable
from routing.versions import Version
from store import clock, revision_rows
from store.database import TRANSACTION_TIMEOUT_S, Database
from store.deletions import deletions
from store.json_rows import json_rows, parameter
from store.paging import fitting
from store.tables import (
    GLOBAL,
    UtcDateTime,
    deleted_programs,
    program_v2_revisions,
    programs,
    rotated_programs,
)

APPLY_TIMEOUT_S = 30.0
"""The most seconds that the transaction of many changes may take."""
_PUT_ATTEMPTS = 10
"""Attempts at a change. Each ends early only if another writer has changed the same program meanwhile."""

_log = structlog.stdlib.get_logger("poolshift.store")


class SqlProgramStore:
    """Implements `routing.catalog.programs.ProgramStore`."""

    def __init__(self, database: Database, *, grace_s: float = 0.0) -> None:
        """For `grace_s` seconds after its deletion a global program keeps its id for its owner."""
        self._database = database
        self._grace_s = grace_s
        rows = json_rows(database, key=BigInteger(), more=BigInteger(), at=UtcDateTime())
        self._add_uses = (
            update(programs)
            .where(programs.c.key == rows.c.key)
            .values(execution_count=programs.c.execution_count + rows.c.more, last_executed_at=rows.c.at)
        )

    async def load(self) -> Sequence[StoredProgram]:
        # A replica that does not know V2's own definitions deletes a program without the former ones of these.
        keys = union_all(select(programs.c.key), select(deleted_programs.c.key))
        orphans = delete(program_v2_revisions).where(program_v2_revisions.c.program_key.not_in(keys))
        async with self._database.transaction() as connection:
            await connection.execute(orphans)
            rows = await connection.execute(select(programs).order_by(programs.c.key))
            return _known(rows)

    async def add(self, new: NewProgram) -> StoredProgram:
        try:
            async with self._database.transaction() as connection:
                row = await self._insert(connection, new)
                await self._announce(connection, [row])
        except IntegrityError:
            raise ProgramExists(new.id) from None
        return program_of(row)

    async def put(self, new: NewProgram, condition: Precondition) -> PutResult:
        (result,) = await self.put_all([ProgramChange(new, condition)])
        return result

    async def put_v2(self, new: NewProgram, condition: Precondition) -> PutResult:
        (result,) = await self.put_all([ProgramChange(new, condition, of_v2=True)])
        return result

    async def put_all(self, changes: Sequence[ProgramChange]) -> Sequence[PutResult]:
        timeout_s = TRANSACTION_TIMEOUT_S if len(changes) == 1 else APPLY_TIMEOUT_S
        for _ in range(_PUT_ATTEMPTS):
            with suppress(IntegrityError, _Overtaken):  # another writer has created or changed one meanwhile
                async with self._database.transaction(timeout_s) as connection:
                    return await self._put_all(connection, changes)
        raise StoreUnavailable(f"others keep changing the program {changes[0].new.id!r}")

    async def _put_all(self, connection: AsyncConnection, changes: Sequence[ProgramChange]) -> Sequence[PutResult]:
        """Makes the changes, and tells the replicas last. It locks all rows first, in the order of `promote_all_v2`."""
        places = [_place(change)[:2] for change in changes]
        known = select(programs.c.key).where(tuple_(programs.c.session_id, programs.c.id).in_(places))
        await connection.execute(known.order_by(programs.c.key).with_for_update())
        made: dict[int, PutResult] = {}
        written: list[Row[Any]] = []
        for at in sorted(range(len(changes)), key=lambda at: _place(changes[at])):
            put = self._put_v2 if changes[at].of_v2 else self._put
            made[at] = await put(connection, changes[at].new, changes[at].condition, written)
        await self._announce(connection, written)
        return [made[at] for at in range(len(changes))]

    async def find(self, program_id: str, session_id: str | None) -> StoredProgram | None:
        async with self._database.reading() as connection:
            row = (await connection.execute(select(programs).where(_is(program_id, session_id)))).one_or_none()
        return next(iter(_known([] if row is None else [row])), None)

    async def page(self, session_id: str | None, *, limit: int, max_bytes: int, after: int) -> ProgramPage:
        of_them = (programs.c.session_id == (session_id or GLOBAL)) & (programs.c.key > after)
        size = func.length(programs.c.definition) + func.coalesce(func.length(programs.c.v2_definition), 0)
        sizes = select(programs.c.key, size).where(of_them).order_by(programs.c.key)
        async with self._database.reading() as connection:
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

    async def demote(self, key: str, by: str | None) -> StoredProgram:
        for _ in range(_PUT_ATTEMPTS):
            async with self._database.transaction() as connection:
                found = await self._lock(connection, programs.c.key == int(key))
                if found is None:
                    raise NothingToDemote("the program has been deleted")
                row = await revision_rows.demote(connection, found, by)
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

    @staticmethod
    async def take_back_rotated(
        connection: AsyncConnection, rotation: int, by: str | None
    ) -> tuple[list[StoredProgram], list[str]]:
        """Makes the definitions that a rotation made everyone's V2's own again, in a transaction as `promote_all_v2`.

        Those of deleted programs as well, which may be restored. Returns the programs that are there, and the ids of
        all that were changed since: they keep what they have.
        """
        changed, kept = await _take_back_rotated(connection, programs, rotation, by)
        _, kept_of_deleted = await _take_back_rotated(connection, deleted_programs, rotation, by)
        return _known(changed), list(dict.fromkeys([*kept, *kept_of_deleted]))

    async def revisions(
        self, key: str, *, limit: int, max_bytes: int, before: int | None, of_v2: bool = False
    ) -> RevisionPage:
        async with self._database.reading() as connection:
            return await revision_rows.page(
                connection, int(key), limit=limit, max_bytes=max_bytes, before=before, of_v2=of_v2
            )

    async def used_since(self, seconds: float) -> Sequence[str]:
        async with self._database.transaction() as connection:
            since = await clock.now(connection) - timedelta(seconds=seconds)
            used = select(programs.c.id).where(programs.c.last_executed_at >= since).distinct().order_by(programs.c.id)
            return (await connection.execute(used)).scalars().all()

    async def add_uses(self, uses: Mapping[str, ProgramUse]) -> None:
        async with self._database.transaction() as connection:
            await self._database.lock_counts(connection)
            now = (await clock.now(connection)).timestamp()
            rows = ((int(key), use.execution_count, now - use.last_executed_s) for key, use in uses.items())
            await connection.execute(self._add_uses, parameter(rows))

    async def _put(
        self, connection: AsyncConnection, new: NewProgram, condition: Precondition, written: list[Row[Any]]
    ) -> PutResult:
        """Creates or changes a program and adds its row to `written`. Raises _Overtaken, IntegrityError too."""
        found = await self._lock(connection, _is(new.id, new.session_id))
        condition.check(new.id, None if found is None else revision_rows.revision_of(found))
        if found is None:
            written.append(await self._insert(connection, new))
            return PutResult(program_of(written[-1]), is_new=True)
        _check_editor(found, new)
        definition = encode_definition(new.definition).decode()
        if _is_in_force(definition, found.definition):
            return PutResult(program_of(found), is_new=False)
        own = _own_definition(found)
        if own is not None:
            await ensure_compatible(new.definition.signature, own.program.definition.signature)
        row = await revision_rows.revise(connection, found, definition, new.editor.name)
        written.append(_as_found(row))
        return PutResult(program_of(written[-1]), is_new=False)

    async def _put_v2(
        self, connection: AsyncConnection, new: NewProgram, condition: Precondition, written: list[Row[Any]]
    ) -> PutResult:
        """Changes V2's own definition, and adds the program's row to `written`. Raises _Overtaken."""
        found = await self._lock(connection, _is(new.id, new.session_id))
        if found is None:
            raise no_program_of_v1(new.id, new.session_id)
        _check_editor(found, new)
        before = program_of(found)
        condition.check(new.id, None if before.v2 is None else before.v2_revision)
        definition = encode_definition(new.definition).decode()
        if before.v2 is not None and _is_in_force(definition, found.v2_definition):
            return PutResult(before, is_new=False)
        await ensure_compatible(before.program.definition.signature, new.definition.signature)
        row = await revision_rows.revise_v2(connection, found, definition, new.editor.name)
        written.append(_as_found(row))
        return PutResult(program_of(written[-1]), is_new=before.v2 is None)

    async def _lock(self, connection: AsyncConnection, which: ColumnElement[bool]) -> Row[Any] | None:
        query = select(programs).where(which).with_for_update()  # SQLite has no such lock
        return (await connection.execute(query)).one_or_none()

    async def _changed(self, connection: AsyncConnection, row: Row[Any]) -> StoredProgram:
        """Tells the other replicas of a program that has changed."""
        await self._announce(connection, [row])
        return program_of(row)

    async def _announce(self, connection: AsyncConnection, written: Iterable[Row[Any]]) -> None:
        for row in written:
            await self._database.announce(connection, "program", reference(row.id, row.session_id))

    async def _insert(self, connection: AsyncConnection, new: NewProgram) -> Row[Any]:
        values = {
            "session_id": new.session_id or GLOBAL,
            "id": new.id,
            "definition": encode_definition(new.definition).decode(),
            "created_at": clock.moment(connection),
            "execution_count": 0,
            "revision": 1,
            "revised_by": new.editor.name,
            "owner": new.editor.owner if new.session_id is None else None,
        }
        if new.session_id is None and self._grace_s:
            for deletion in await deletions(connection, new.id, None, self._grace_s):
                deletion.check_reuse(new.editor, self._grace_s)
        row: Row[Any] = (await connection.execute(insert(programs).values(values).returning(programs))).one()
        return row


async def _take_back_rotated(
    connection: AsyncConnection, table: Table, rotation: int, by: str | None
) -> tuple[list[Row[Any]], list[str]]:
    """Does for the programs of one table what `SqlProgramStore.take_back_rotated` does."""
    joined = table.join(rotated_programs, table.c.key == rotated_programs.c.program_key)
    former = (rotated_programs.c.definition.label("former"), rotated_programs.c.revision.label("rotated"))
    query = select(table, *former).select_from(joined).where(rotated_programs.c.rotation == rotation)
    rows, kept = [], []
    for found in (await connection.execute(query.order_by(table.c.key).with_for_update(of=table))).all():
        is_as_rotated = revision_rows.revision_of(found) == found.rotated
        row = await revision_rows.put_back(connection, found, found.former, by, table) if is_as_rotated else None
        if row is None or found.v2_definition is not None:
            kept.append(found.id)
        if row is not None:
            rows.append(row)
    return rows, kept


class _Overtaken(Exception):
    """Another writer has changed a program since it was read."""


def _as_found(row: Row[Any] | None) -> Row[Any]:
    """Returns the row of a change that found the program as it was read. Raises _Overtaken."""
    if row is None:
        raise _Overtaken
    return row


def _place(change: ProgramChange) -> tuple[str, str, bool]:
    return change.new.session_id or GLOBAL, change.new.id, change.of_v2


def _check_editor(found: Row[Any], new: NewProgram) -> None:
    """Tells if the editor may change the program that is there. Raises NotTheOwner."""
    shared = is_shared(found.definition)
    new.editor.check(found.id, found.owner, is_shared=shared, stays_shared=new.definition.shared)


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
            known.append(program_of(row))
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


def program_of(row: Row[Any]) -> StoredProgram:
    """Reads a program's row. Raises msgspec.ValidationError for a definition of a newer version."""
    definition = decode_definition(row.definition)
    return StoredProgram(
        program=Program(str(row.key), row.id, definition, revision_rows.revision_of(row)),
        session_id=row.session_id or None,
        created_at=row.created_at,
        execution_count=row.execution_count,
        last_executed_at=row.last_executed_at,
        v2=_own_definition(row),
        v2_revision=revision_rows.v2_revision_of(row),
        owner=row.owner,
    )
