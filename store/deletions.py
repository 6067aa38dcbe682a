"""Deletions of programs as they are listed: without definitions, which may be large."""

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Row, and_, case, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from routing.catalog.definitions import is_shared
from routing.catalog.deleted_programs import Deletion
from store import clock
from store.tables import GLOBAL, deleted_programs

MAX_LISTED: Final = 10_000
"""Deletions of one id that are looked at, the newest ones."""
_SHARED: Final = '%"shared":true%'
"""A part of the JSON of each shared program; others may have it, too, in a schema or a default."""
_table = deleted_programs.c
_may_be_shared = and_(_table.owner.is_not(None), _table.definition.like(_SHARED))
_COLUMNS: Final[tuple[Any, ...]] = (
    _table.key,
    _table.id,
    _table.session_id,
    _table.owner,
    _table.deleted_at,
    _table.deleted_by,
    func.coalesce(_table.revision, 1).label("revision"),
    case((_may_be_shared, _table.definition)).label("definition"),
)


async def deletions(
    connection: AsyncConnection, program_id: str, session_id: str | None, within_s: float
) -> Sequence[Deletion]:
    """Lists the deletions of programs of an id within so many seconds, the newest first."""
    of_id = (_table.id == program_id) & (_table.session_id == (session_id or GLOBAL))
    is_kept = _table.deleted_at >= clock.moment(connection, -within_s)
    newest_first = _table.deleted_at.desc(), _table.key.desc()
    query = select(*_COLUMNS).where(of_id, is_kept).order_by(*newest_first).limit(MAX_LISTED)
    return [_deletion(row) for row in await connection.execute(query)]


def _deletion(row: Row[Any]) -> Deletion:
    return Deletion(
        number=row.key,
        program_id=row.id,
        session_id=row.session_id or None,
        revision=row.revision,
        owner=row.owner,
        is_shared=row.definition is not None and is_shared(row.definition),
        deleted_at=row.deleted_at,
        deleted_by=row.deleted_by,
    )
