"""Engines of a SQLite database, and the form of their transactions."""

import sqlite3
from collections.abc import Callable
from typing import Any, Final
from weakref import WeakSet

from sqlalchemy import Connection, event
from sqlalchemy.engine import URL
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

CONNECTIONS: Final = 5
"""Connections that stay open. There are never more: each has a thread, which there may be none for later."""
_WRITERS: Final = 1
"""Connections of a process that writes to a shared file: one process writes at a time, and one task of that."""
_BUSY_TIMEOUT_MS: Final = 4_500
"""The most time that SQLite waits for a lock, in ms. Most transactions may take longer, so they end in order."""


def own_engine(url: URL, check: Callable[[], None]) -> AsyncEngine:
    """Makes the engine of a database that this process alone uses. `check` may refuse a new connection."""
    bound = {"pool_size": CONNECTIONS, "max_overflow": 0} if _is_file(url) else {}
    engine = _engine(url, **bound)
    _prepare(engine, check)
    return engine


def shared_engines(url: URL, check: Callable[[], None]) -> tuple[AsyncEngine, AsyncEngine]:
    """Makes an engine that writes, and one that only reads, to a file that other processes write to as well.

    A transaction that writes locks out all other writers at its beginning, so nothing that it reads is outdated when it
    writes. One that only reads sees one state of the database, and neither waits for a writer nor holds one up.
    """
    writing = _engine(url, pool_size=_WRITERS, max_overflow=0)
    reading = _engine(url, pool_size=CONNECTIONS - _WRITERS, max_overflow=0)
    for engine, begin, *pragmas in ((writing, "BEGIN IMMEDIATE"), (reading, "BEGIN", "PRAGMA query_only=ON")):
        _prepare(engine, check, *pragmas)
        event.listen(engine.sync_engine, "connect", _leave_transactions_to_us)
        event.listen(engine.sync_engine, "begin", _beginning(begin))
    return writing, reading


class _Connection(sqlite3.Connection):
    """A connection that lets go of its locks when it is closed.

    A call that is cancelled amid a statement leaves the statement's cursor open. SQLite ends the transaction of a
    closed connection only when the last cursor is garbage, and nobody else can write until then.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._cursors = WeakSet[sqlite3.Cursor]()

    def cursor(self, *args: Any, **options: Any) -> Any:
        """Makes a cursor, and remembers it as long as anybody has it."""
        cursor = super().cursor(*args, **options)
        self._cursors.add(cursor)
        return cursor

    def close(self) -> None:
        """Closes what is open of all cursors first."""
        for cursor in list(self._cursors):
            cursor.close()
        super().close()


def _engine(url: URL, **bound: int) -> AsyncEngine:
    return create_async_engine(url, hide_parameters=True, connect_args={"factory": _Connection}, **bound)


def _prepare(engine: AsyncEngine, check: Callable[[], None], *pragmas: str) -> None:
    """Has each new connection of an engine set up, or refused."""

    def prepare(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
        try:
            check()  # the first statement opens the log
            cursor = connection.cursor()
            for pragma in (
                "PRAGMA journal_mode=WAL",  # readers do not wait for the writer
                "PRAGMA synchronous=FULL",  # what was acknowledged survives a power cut too
                f"PRAGMA busy_timeout={_BUSY_TIMEOUT_MS}",
                *pragmas,
            ):
                cursor.execute(pragma)
            cursor.close()
            check()
        except BaseException:
            connection.close()
            raise

    event.listen(engine.sync_engine, "connect", prepare)


def _leave_transactions_to_us(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    """Has Python's sqlite3 begin no transaction: it would begin one at the first change only."""
    connection.isolation_level = None


def _beginning(statement: str) -> Callable[[Connection], None]:
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql(statement)

    return begin


def _is_file(url: URL) -> bool:
    return bool(url.database) and url.database != ":memory:" and url.query.get("mode") != "memory"
