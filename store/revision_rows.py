"""Revisions of programs: the one in force is in the program's own row, those before it are in rows of their own."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Row, Select, Subquery, Table, delete, func, insert, select, union_all, update
from sqlalchemy.ext.asyncio import AsyncConnection

from routing.catalog.revisions import (
    ALWAYS_KEPT_REVISIONS,
    KEPT_BYTES,
    KEPT_REVISIONS,
    ProgramRevision,
    RevisionPage,
)
from routing.errors import NothingToDemote
from store import clock
from store.paging import fitting
from store.tables import deleted_programs, program_revisions, program_v2_revisions, programs

_FIRST = 1
_revision = func.coalesce(programs.c.revision, _FIRST)
_revised_at = func.coalesce(programs.c.revised_at, programs.c.created_at)


def revision_of(row: Row[Any]) -> int:
    """The revision in force of a program. An older replica writes none."""
    return row.revision or _FIRST


def v2_revision_of(row: Row[Any]) -> int:
    """The changes of V2's own definition of a program."""
    return row.v2_revision or 0


async def revise(connection: AsyncConnection, found: Row[Any], definition: str, by: str | None) -> Row[Any] | None:
    """Replaces the definition of the program `found`, and keeps the former one. None if it is no longer as found."""
    row = await _change(connection, found, _new_revision(found, definition, by, clock.moment(connection)))
    if row is not None:
        await _keep_former(connection, found)
    return row


async def revise_v2(
    connection: AsyncConnection, found: Row[Any], definition: str | None, by: str | None
) -> Row[Any] | None:
    """Replaces V2's own definition, or takes it back, and keeps the former one. None if it is no longer as found."""
    row = await _change(connection, found, _new_v2_revision(found, definition, by, clock.moment(connection)))
    if row is not None:
        await _keep_former_of_v2(connection, found)
    return row


async def promote_v2(connection: AsyncConnection, found: Row[Any], by: str | None) -> Row[Any] | None:
    """Makes V2's own definition everyone's, and keeps the former ones. None if they are no longer as found."""
    now = clock.moment(connection)
    new = {**_new_revision(found, found.v2_definition, by, now), **_new_v2_revision(found, None, by, now)}
    row = await _change(connection, found, new | {"promoted_revision": new["revision"]})
    if row is not None:
        await _keep_former(connection, found)
        await _keep_former_of_v2(connection, found)
    return row


async def put_back(
    connection: AsyncConnection, found: Row[Any], definition: str, by: str | None, table: Table = programs
) -> Row[Any] | None:
    """Gives V1 `definition` again, and V2 the one in force as its own, unless it has one. None as for `promote_v2`.

    The program is in `table`: it may have been deleted.
    """
    now = clock.moment(connection)
    new = _new_revision(found, definition, by, now)
    if found.v2_definition is None:
        new |= _new_v2_revision(found, found.definition, by, now)
    if table is deleted_programs:
        new["size"] = found.size + len(definition)
    row = await _change(connection, found, new, table)
    if row is not None:
        await _keep_former(connection, found)
    return row


async def demote(connection: AsyncConnection, found: Row[Any], by: str | None) -> Row[Any] | None:
    """Undoes `promote_v2`, and keeps the definition of both. None if they are no longer as found.

    Raises:
        NothingToDemote: the definition in force is not the promoted one, or V2 has another definition of its own.
    """
    if found.promoted_revision != revision_of(found):
        raise NothingToDemote("the definition in force is not one that a promotion of V2's own has put there")
    if found.v2_definition is not None:
        raise NothingToDemote("V2 has another definition of its own since the promotion: take that back first")
    former = await definition_at(connection, found.key, revision_of(found) - 1)
    if former is None:
        raise NothingToDemote("the definition before the promotion is not kept any more")
    now = clock.moment(connection)
    new = {**_new_revision(found, former, by, now), **_new_v2_revision(found, found.definition, by, now)}
    row = await _change(connection, found, new)
    if row is not None:
        await _keep_former(connection, found)
    return row


async def definition_at(connection: AsyncConnection, key: int, revision: int) -> str | None:
    """Reads a former definition of a program; None if it is not kept."""
    of_revision = (program_revisions.c.program_key == key) & (program_revisions.c.revision == revision)
    found = await connection.execute(select(program_revisions.c.definition).where(of_revision))
    return found.scalar_one_or_none()


def _new_revision(found: Row[Any], definition: str, by: str | None, now: ColumnElement[datetime]) -> dict[str, Any]:
    revision = revision_of(found) + 1
    return {"definition": definition, "revision": revision, "revised_at": now, "revised_by": by}


def _new_v2_revision(
    found: Row[Any], definition: str | None, by: str | None, now: ColumnElement[datetime]
) -> dict[str, Any]:
    revision = v2_revision_of(found) + 1
    return {"v2_definition": definition, "v2_revision": revision, "v2_revised_at": now, "v2_revised_by": by}


async def _change(
    connection: AsyncConnection, found: Row[Any], new: dict[str, Any], table: Table = programs
) -> Row[Any] | None:
    """Changes a program whose definitions, V2's too, are as they were found; None if they are not."""
    is_as_found = (
        (table.c.key == found.key)
        & (func.coalesce(table.c.revision, _FIRST) == revision_of(found))
        & (func.coalesce(table.c.v2_revision, 0) == v2_revision_of(found))
    )
    change = update(table).where(is_as_found).values(new).returning(table)
    row: Row[Any] | None = (await connection.execute(change)).one_or_none()
    return row


async def _keep_former(connection: AsyncConnection, found: Row[Any]) -> None:
    former = {
        "revision": revision_of(found),
        "definition": found.definition,
        "created_at": found.revised_at or found.created_at,
        "created_by": found.revised_by,
    }
    await _keep(connection, program_revisions, found, former)


async def _keep_former_of_v2(connection: AsyncConnection, found: Row[Any]) -> None:
    if found.v2_definition is None:
        return
    former = {
        "revision": v2_revision_of(found),
        "definition": found.v2_definition,
        "created_at": found.v2_revised_at,
        "created_by": found.v2_revised_by,
    }
    await _keep(connection, program_v2_revisions, found, former)


async def _keep(connection: AsyncConnection, table: Table, found: Row[Any], former: dict[str, Any]) -> None:
    """Keeps a former definition, and drops what is too old."""
    owner = {"program_key": found.key, "session_id": found.session_id}
    await connection.execute(insert(table).values(former | owner))
    of_program = table.c.program_key == found.key
    sizes = select(table.c.revision, func.length(table.c.definition)).where(of_program)
    newest = [
        (revision, size)
        for revision, size in await connection.execute(sizes.order_by(table.c.revision.desc()).limit(KEPT_REVISIONS))
    ]
    fit = max(fitting([size for _, size in newest], KEPT_BYTES), ALWAYS_KEPT_REVISIONS - 1)
    kept = newest[: min(fit, KEPT_REVISIONS - 1)]  # the one in force is kept, too
    await connection.execute(delete(table).where(of_program, table.c.revision < kept[-1][0]))


async def forget(connection: AsyncConnection, keys: Sequence[int]) -> None:
    """Deletes the former definitions of programs."""
    for table in (program_revisions, program_v2_revisions):
        await connection.execute(delete(table).where(table.c.program_key.in_(keys)))


async def page(
    connection: AsyncConnection, key: int, *, limit: int, max_bytes: int, before: int | None, of_v2: bool
) -> RevisionPage:
    """Reads revisions of a program, as `routing.catalog.programs.ProgramStore.revisions` says."""
    kept = _kept_of_v2(key) if of_v2 else _kept(key)
    is_asked_for = kept.c.revision > 0 if before is None else kept.c.revision < before
    newest_first = kept.c.revision.desc()
    sizes = select(kept.c.revision, func.length(kept.c.definition)).where(is_asked_for).order_by(newest_first)
    found = [(revision, size) for revision, size in await connection.execute(sizes.limit(limit + 1))]
    count = fitting([size for _, size in found[:limit]], max_bytes)
    if not count:
        return RevisionPage([], has_more=False)
    on_page = kept.c.revision.between(found[count - 1][0], found[0][0])
    rows = await connection.execute(select(kept).where(on_page).order_by(newest_first))
    return RevisionPage([_shown(row) for row in rows], has_more=count < len(found))


def _kept(key: int) -> Subquery:
    """All revisions of a program."""
    in_force = select(
        _revision.label("revision"),
        programs.c.definition,
        _revised_at.label("created_at"),
        programs.c.revised_by.label("created_by"),
    ).where(programs.c.key == key)
    return union_all(in_force, _former(program_revisions, key)).subquery("kept")


def _kept_of_v2(key: int) -> Subquery:
    """All own definitions of V2's that are kept."""
    in_force = select(
        programs.c.v2_revision.label("revision"),
        programs.c.v2_definition.label("definition"),
        programs.c.v2_revised_at.label("created_at"),
        programs.c.v2_revised_by.label("created_by"),
    ).where(programs.c.key == key, programs.c.v2_definition.is_not(None))
    return union_all(in_force, _former(program_v2_revisions, key)).subquery("kept")


def _former(table: Table, key: int) -> Select[Any]:
    columns = table.c.revision, table.c.definition, table.c.created_at, table.c.created_by
    return select(*columns).where(table.c.program_key == key)


def _shown(row: Row[Any]) -> ProgramRevision:
    definition = msgspec.Raw(row.definition.encode())
    return ProgramRevision(row.revision, definition, row.created_at, row.created_by)
