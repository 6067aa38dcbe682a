"""The clock that all replicas share: the database's. Those of their machines may differ by minutes.

SQLite is used on one machine, and all its processes have that machine's clock.
"""

import time
from datetime import UTC, datetime, timedelta

from sqlalchemy import ColumnElement, Interval, func, literal, select, type_coerce
from sqlalchemy.ext.asyncio import AsyncConnection

from store.tables import UtcDateTime


def moment(connection: AsyncConnection, seconds: float = 0.0) -> ColumnElement[datetime]:
    """The moment so many seconds from now, for a statement; never before 1970, however long a time to live is."""
    # An index serves a comparison with this, unlike one with clock_timestamp().
    return _moment(connection, func.statement_timestamp(), seconds)


def current_moment(connection: AsyncConnection, seconds: float = 0.0) -> ColumnElement[datetime]:
    """Does as `moment`, from the time at which a statement gets the rows that it waited for."""
    return _moment(connection, func.clock_timestamp(), seconds)


async def now(connection: AsyncConnection) -> datetime:
    """Asks for the time."""
    if connection.dialect.name != "postgresql":
        return datetime.now(UTC)
    found: datetime = (await connection.execute(select(moment(connection)))).scalar_one()
    return found


def _moment(connection: AsyncConnection, now: ColumnElement[datetime], seconds: float) -> ColumnElement[datetime]:
    """Adds to `now`, which is PostgreSQL's. SQLite's writer waits at the beginning of its transaction alone."""
    seconds = max(seconds, -time.time())
    if connection.dialect.name != "postgresql":
        return literal(datetime.now(UTC) + timedelta(seconds=seconds), UtcDateTime())
    return type_coerce(now + literal(timedelta(seconds=seconds), Interval()), UtcDateTime())
