"""Tables from one JSON parameter: a thousand rows are bound as one, and the database takes them apart.

Bound one by one, each row would cost the event loop several times as much as the database.
"""

from collections.abc import Iterable
from typing import Any

import msgspec
from sqlalchemy import JSON, Float, Subquery, Text, bindparam, cast, func, literal_column, select
from sqlalchemy.sql.elements import ColumnElement
from sqlalchemy.types import TypeEngine

from store.database import Database
from store.tables import UtcDateTime

_PARAMETER = "rows"


def json_rows(database: Database, **columns: TypeEngine[Any]) -> Subquery:
    """Makes the table for a statement that `parameter` fills. A `UtcDateTime` is given in seconds since the epoch."""
    column = _of_postgresql if database.is_postgresql else _of_sqlite
    rows = bindparam(_PARAMETER, type_=Text())
    elements = func.json_array_elements(cast(rows, JSON)) if database.is_postgresql else func.json_each(rows)
    row = elements.table_valued("value").c.value
    values = [column(row, index, kind).label(name) for index, (name, kind) in enumerate(columns.items())]
    return select(*values).subquery("rows")


def parameter(rows: Iterable[tuple[Any, ...]]) -> dict[str, str]:
    """Encodes the rows for a statement with `json_rows`."""
    return {_PARAMETER: msgspec.json.encode(list(rows)).decode()}


def _of_postgresql(row: ColumnElement[Any], index: int, kind: TypeEngine[Any]) -> ColumnElement[Any]:
    text = row.op("->>")(literal_column(str(index)))
    return func.to_timestamp(cast(text, Float)) if isinstance(kind, UtcDateTime) else cast(text, kind)


def _of_sqlite(row: ColumnElement[Any], index: int, kind: TypeEngine[Any]) -> ColumnElement[Any]:
    value = func.json_extract(row, literal_column(f"'$[{index}]'"))
    # A time as SQLAlchemy writes it there, but that SQLite counts milliseconds.
    return func.strftime("%Y-%m-%d %H:%M:%f000", value, "unixepoch") if isinstance(kind, UtcDateTime) else value
