"""Revisions of programs: the one in force is in the program's own row, those before it are in rows of their own."""

from datetime import UTC, datetime
from typing import Any

import msgspec
from sqlalchemy import Row, Subquery, delete, func, insert, select, union_all, update
from sqlalchemy.ext.asyncio import AsyncConnection

from routing.catalog.revisions import KEPT_REVISIONS, ProgramRevision, RevisionPage
from store.paging import fitting
from store.tables import program_revisions, programs

_FIRST = 1
_revision = func.coalesce(programs.c.revision, _FIRST)
_revised_at = func.coalesce(programs.c.revised_at, programs.c.created_at)


def revision_of(row: Row[Any]) -> int:
    """The revision in force of a program. An older replica writes none."""
    return row.revision or _FIRST


async def revise(connection: AsyncConnection, found: Row[Any], definition: str, by: str | None) -> Row[Any] | None:
    """Replaces the definition of the program `found`, and keeps the former one. None if it is no longer as found."""
    revision = revision_of(found)
    is_as_found = (programs.c.key == found.key) & (_revision == revision)
    new = {"definition": definition, "revision": revision + 1, "revised_at": datetime.now(UTC), "revised_by": by}
    change = update(programs).where(is_as_found).values(new).returning(programs)
    row: Row[Any] | None = (await connection.execute(change)).one_or_none()
    if row is None:
        return None
    former = {
        "program_key": found.key,
        "revision": revision,
        "session_id": found.session_id,
        "definition": found.definition,
        "created_at": found.revised_at or found.created_at,
        "created_by": found.revised_by,
    }
    await connection.execute(insert(program_revisions).values(former))
    is_too_old = program_revisions.c.revision <= revision + 1 - KEPT_REVISIONS
    await connection.execute(delete(program_revisions).where(program_revisions.c.program_key == found.key, is_too_old))
    return row


async def page(
    connection: AsyncConnection, key: int, *, limit: int, max_bytes: int, before: int | None
) -> RevisionPage:
    """Reads revisions of a program, as `routing.catalog.programs.ProgramStore.revisions` says."""
    kept = _kept(key)
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
    former = select(
        program_revisions.c.revision,
        program_revisions.c.definition,
        program_revisions.c.created_at,
        program_revisions.c.created_by,
    ).where(program_revisions.c.program_key == key)
    return union_all(in_force, former).subquery("kept")


def _shown(row: Row[Any]) -> ProgramRevision:
    definition = msgspec.Raw(row.definition.encode())
    return ProgramRevision(row.revision, definition, row.created_at, row.created_by)
