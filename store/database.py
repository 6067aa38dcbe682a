"""Connections, transactions and migrations of the database."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

from sqlalchemy import Dialect, event, insert, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from common.threads import in_thread
from routing.errors import StoreUnavailable
from store.clock import moment
from store.schema import NewerSchema, upgrade
from store.sqlite_file import SqliteFile
from store.tables import changes

TRANSACTION_TIMEOUT_S = 5.0
"""The most seconds that most transactions may take. Their callers get StoreUnavailable then."""
POOL_SIZE = 5
"""Connections of SQLite that stay open."""
GUARD_INTERVAL_S = 1.0
"""Time between two looks at the log of a SQLite database."""
CHANNEL = "poolshift"
"""The channel of LISTEN and NOTIFY. A notification is empty: the table says which rows changed."""
# Any numbers that no other user of the database takes.
_MIGRATION_LOCK = 0x706F6F6C
_CHANGES_LOCK = 0x706F6F6D
_COUNTS_LOCK = 0x706F6F6E


class Database:
    """SQLite or PostgreSQL, by its SQLAlchemy URL."""

    def __init__(self, url: str) -> None:
        """Raises StoreUnavailable if `url` is not a URL."""
        try:
            self.url = make_url(url)
        except (ArgumentError, ValueError):
            raise StoreUnavailable("cannot open the database: DATABASE_URL is not a URL") from None
        self._file: SqliteFile | None = None
        self._under_way = 0
        """Transactions that have begun and not ended."""
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        # Parameters are hidden: an error's traceback may be logged, and they contain the keys of LMs.
        if self.is_shared:
            # A connection that died while it lay in the pool is noticed before it is used.
            connect_args = {"timeout": TRANSACTION_TIMEOUT_S}
            self._engine = create_async_engine(
                self.url, pool_pre_ping=True, connect_args=connect_args, hide_parameters=True
            )
        else:
            # No more connections than are opened ahead: each has a thread.
            bound = {"pool_size": POOL_SIZE, "max_overflow": 0} if _is_file(self.url) else {}
            self._engine = create_async_engine(self.url, hide_parameters=True, **bound)
            event.listen(self._engine.sync_engine, "connect", _prepare_sqlite)

    @property
    def is_shared(self) -> bool:
        """True if other replicas may write to the database too."""
        return self.url.get_backend_name() == "postgresql"

    @property
    def dialect(self) -> Dialect:
        """SQLAlchemy's dialect, for a statement that is made before there is a connection."""
        return self._engine.dialect

    @property
    def dsn(self) -> str:
        """The URL without SQLAlchemy's driver, as PostgreSQL's own clients take it."""
        return self.url.set(drivername="postgresql").render_as_string(hide_password=False)

    @asynccontextmanager
    async def transaction(self, timeout_s: float = TRANSACTION_TIMEOUT_S) -> AsyncIterator[AsyncConnection]:
        """Opens a transaction, which is committed at the end of the block.

        Raises:
            IntegrityError: what was written contradicts what is there.
            StoreUnavailable: the database does not answer in time, or SQLite's file is gone.
        """
        self._under_way += 1
        self._is_idle.clear()
        try:
            async with asyncio.timeout(timeout_s):
                await self._see_to_file()
                async with AsyncExitStack() as stack:
                    yield await self._begin(stack)
                await self._see_to_file()  # what is acknowledged is in the database, or in a log that is there
        except IntegrityError:
            raise
        except (DBAPIError, PoolTimeoutError, OSError, TimeoutError) as error:
            raise StoreUnavailable(self._told(error)) from error
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._is_idle.set()

    def _told(self, error: DBAPIError | PoolTimeoutError | OSError) -> str:
        """Tells an error to a client, in SQLite's words; those of PostgreSQL may name hosts and users."""
        if isinstance(error, DBAPIError) and not self.is_shared:
            return f"the database cannot be used: {_reason(error)}"
        return f"the database does not answer: {type(error).__name__}"

    async def migrate(self) -> None:
        """Brings the schema up to date; several replicas may do so at once. It claims a SQLite file for this process.

        Raises:
            StoreUnavailable: the database does not answer, another process has its file, or a newer release has
                migrated it.
        """
        try:
            if not self.is_shared:
                _create_sqlite(self.url)
                await self._claim_file()
            async with self._engine.begin() as connection:
                if self.is_shared:
                    await connection.execute(text(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})"))
                await connection.run_sync(upgrade)
        except (DBAPIError, OSError, NewerSchema) as error:
            place = self.url.set(query={}).render_as_string(hide_password=True)
            raise StoreUnavailable(f"cannot open the database: {_reason(error)} (DATABASE_URL={place})") from error

    async def guard(self) -> None:
        """Notices that somebody has deleted the log of a SQLite database, and saves its content."""
        while True:
            await asyncio.sleep(GUARD_INTERVAL_S)
            with suppress(StoreUnavailable):  # the next transaction tells its caller
                await self._see_to_file()

    async def announce(self, connection: AsyncConnection, kind: str, ref: str) -> None:
        """Tells the other replicas of a change, in the same transaction.

        The lock makes rows appear in the order of their numbers, so that a reader which goes on from one misses none.
        """
        if self.is_shared:
            await connection.execute(text(f"SELECT pg_advisory_xact_lock({_CHANGES_LOCK})"))
            await connection.execute(insert(changes).values(kind=kind, ref=ref, at=moment(connection)))
            await connection.execute(text(f"SELECT pg_notify('{CHANNEL}', '')"))

    async def lock_counts(self, connection: AsyncConnection) -> None:
        """Waits until no other replica writes counts: two that lock the same rows in two orders would deadlock."""
        if self.is_shared:
            await connection.execute(text(f"SELECT pg_advisory_xact_lock({_COUNTS_LOCK})"))

    async def aclose(self) -> None:
        """Closes all connections; a SQLite file is free for another process.

        It waits for the transactions that are under way, as long as most may take.
        """
        with suppress(TimeoutError):
            await asyncio.wait_for(self._is_idle.wait(), TRANSACTION_TIMEOUT_S)
        await self._engine.dispose()
        if self._file is not None:
            self._file.close()
            self._file = None

    async def _see_to_file(self) -> None:
        if self._file is not None:
            await in_thread(self._file.save)

    async def _begin(self, stack: AsyncExitStack) -> AsyncConnection:
        """A connection in a transaction, which ends with `stack`; a new connection of SQLite needs a thread."""
        try:
            return await stack.enter_async_context(self._engine.begin())
        except RuntimeError as error:
            raise StoreUnavailable(f"no connection to the database: {error}") from error

    async def _claim_file(self) -> None:
        if self._file is not None:
            return
        async with self._engine.connect() as connection:  # SQLite knows which file a URL means, and whether it is one
            path = (
                await connection.execute(text("SELECT file FROM pragma_database_list WHERE name = 'main'"))
            ).scalar()
        if path:
            self._file = SqliteFile.claim(Path(path))
            await self._open_connections()

    async def _open_connections(self) -> None:
        """Opens the pool's connections, since each has a thread, which there may be none for later."""
        async with AsyncExitStack() as stack:
            for _ in range(POOL_SIZE):
                await stack.enter_async_context(self._engine.connect())


def _is_file(url: URL) -> bool:
    return bool(url.database) and url.database != ":memory:" and url.query.get("mode") != "memory"


def _reason(error: DBAPIError | OSError | NewerSchema) -> str:
    """Tells the error, the driver's own one, in one line, without what SQLAlchemy writes around it."""
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    return str(cause).partition("\n")[0] or type(cause).__name__


def _create_sqlite(url: URL) -> None:
    """Creates the file with a mode for its owner alone; SQLite's files beside it get the same mode.

    An existing file keeps its mode: its operator may have a reason.
    """
    if url.database and url.database != ":memory:" and not url.query:
        with suppress(FileExistsError):
            os.close(os.open(url.database, os.O_CREAT | os.O_EXCL, 0o600))


def _prepare_sqlite(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")  # readers do not wait for the writer
    cursor.execute("PRAGMA synchronous=FULL")  # what was acknowledged survives a power cut too
    cursor.execute("PRAGMA busy_timeout=5000")
    cursor.close()
