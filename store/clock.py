"""The clock that all replicas share: the database's. Those of their machines may differ by minutes.

SQLite is one process's own, and so is its clock.
"""

import time
from datetime import UTC, datetime, timedelta

from sqlalchemy import ColumnElement, Interval, func, literal, select, type_coerce
from sqlalchemy.ext.asyncio import AsyncConnection

from store.tables import UtcDateTime


def moment(connection: AsyncConnection, seconds: float = 0.0) -> ColumnElement[datetime]:
    """The moment so many seconds from now, for a statement; never before 1970, however long a time to live is."""
    seconds = max(seconds, -time.time())
    if connection.dialect.name != "postgresql":
        return literal(datetime.now(UTC) + timedelta(seconds=seconds), UtcDateTime())
    now = func.statement_timestamp()  # an index serves a comparison with it, unlike one with clock_timestamp()
    return type_coerce(now + literal(timedelta(seconds=seconds), Interval()), UtcDateTime())


async def now(connection: AsyncConnection) -> datetime:
    """Asks for the time."""
    if connection.dialect.name != "postgresql":
        return datetime.now(UTC)
    found: datetime = (await connection.execute(select(moment(connection)))).scalar_one()
    return found
