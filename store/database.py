"""Connections, transactions and migrations of the database."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext, suppress
from pathlib import Path
from typing import cast

from sqlalchemy import Dialect, insert, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import QueuePool

from common.threads import in_thread
from routing.errors import StoreUnavailable
from store.clock import moment
from store.health import StoreHealth
from store.schema import NewerSchema, upgrade
from store.sqlite.engines import own_engine, shared_engines
from store.sqlite.file import SqliteFile
from store.sqlite.lock import SqliteLock, find_file
from store.sqlite.share import SqliteShare
from store.sqlite.turns import WriteTurns
from store.tables import changes

TRANSACTION_TIMEOUT_S = 5.0
"""The most seconds that most transactions may take. Their callers get StoreUnavailable then."""
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

    def __init__(self, url: str, *, share: SqliteShare | None = None) -> None:
        """Takes this process's `share` of a SQLite file that `claim_for_replicas` has claimed for several.

        Raises StoreUnavailable if `url` is not a URL.
        """
        self.url = _parsed(url)
        self.is_postgresql = self.url.get_backend_name() == "postgresql"
        self.is_shared = self.is_postgresql or share is not None
        """True if other replicas may write to the database too."""
        self.on_announced: Callable[[], None] | None = None
        """Called as soon as a change has been announced and committed, before the caller of `transaction` goes on."""
        self.health = StoreHealth()
        self._share = share
        self._claim: SqliteLock | None = None
        """The claim on a SQLite file that no other process shares."""
        self._file: SqliteFile | None = None
        self._turns: WriteTurns | None = None
        self._announcing: set[AsyncConnection] = set()
        """The transactions that have announced a change."""
        self._under_way = 0
        """Transactions that have begun and not ended."""
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self._engine, self._reading_engine = self._engines()

    def __repr__(self) -> str:
        place = self.url.set(query={}).render_as_string(hide_password=True)
        return f"<Database {place} is_shared={self.is_shared} under_way={self._under_way}>"

    def _engines(self) -> tuple[AsyncEngine, AsyncEngine]:
        """Makes the engine of transactions, and that of those which only read.

        Parameters are hidden: an error's traceback may be logged, and they contain the keys of LMs.
        """
        if self.is_postgresql:
            # A connection that died while it lay in the pool is noticed before it is used.
            args = {"timeout": TRANSACTION_TIMEOUT_S}
            engine = create_async_engine(self.url, pool_pre_ping=True, connect_args=args, hide_parameters=True)
        elif self.is_shared:
            return shared_engines(self.url, self._check_log)
        else:
            engine = own_engine(self.url, self._check_log)
        return engine, engine

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
        async with self._bounded(timeout_s, is_writing=True):
            connection = None
            try:
                async with self._turn(), AsyncExitStack() as stack:
                    connection = await _begin(stack, self._engine)
                    yield connection
            finally:
                self._tell_announced(connection)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """Opens a transaction that only reads. With SQLite it waits for no writer.

        Raises:
            StoreUnavailable: as `transaction`.
        """
        async with self._bounded(TRANSACTION_TIMEOUT_S, is_writing=False), AsyncExitStack() as stack:
            yield await _begin(stack, self._reading_engine)

    @asynccontextmanager
    async def _bounded(self, timeout_s: float, *, is_writing: bool) -> AsyncIterator[None]:
        """Bounds the time of a transaction, counts it, and raises its failures as StoreUnavailable."""
        self._under_way += 1
        self._is_idle.clear()
        with self.health.noting(is_writing=is_writing):
            try:
                async with asyncio.timeout(timeout_s):
                    await self._see_to_file()
                    yield
                    await self._see_to_file()  # what is acknowledged is in the database, or in a log that is there
            except IntegrityError:
                raise
            except (DBAPIError, PoolTimeoutError, OSError, TimeoutError) as error:
                raise StoreUnavailable(self._told(error)) from error
            finally:
                self._under_way -= 1
                if not self._under_way:
                    self._is_idle.set()

    def _turn(self) -> AbstractAsyncContextManager[None]:
        return nullcontext() if self._turns is None else self._turns.turn()

    def _told(self, error: DBAPIError | PoolTimeoutError | OSError) -> str:
        """Tells an error to a client, in SQLite's words; those of PostgreSQL may name hosts and users."""
        if isinstance(error, DBAPIError) and not self.is_postgresql:
            return f"the database cannot be used: {_reason(error)}"
        return f"the database does not answer: {type(error).__name__}"

    async def migrate(self) -> None:
        """Brings the schema up to date; several replicas may do so at once. It claims a SQLite file that nobody has.

        Raises:
            StoreUnavailable: the database does not answer, another process has its file, or a newer release has
                migrated it.
        """
        try:
            if not self.is_postgresql and self._file is None:
                await self._open_file()
            async with self._turn(), self._engine.begin() as connection:
                if self.is_postgresql:
                    await connection.execute(text(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})"))
                await connection.run_sync(upgrade)
        except (DBAPIError, sqlite3.Error, OSError, NewerSchema) as error:
            raise _cannot_open(self.url, error) from error

    async def guard(self) -> None:
        """Notices that somebody has deleted the log of a SQLite database, and saves its content."""
        while True:
            await asyncio.sleep(GUARD_INTERVAL_S)
            with suppress(StoreUnavailable):  # the next transaction tells its caller
                await self._see_to_file()

    async def announce(self, connection: AsyncConnection, kind: str, ref: str) -> None:
        """Tells the other replicas of a change, in the same transaction.

        The rows appear in the order of their numbers, so a reader which goes on from one misses none. PostgreSQL needs
        a lock for that; with SQLite one transaction writes at a time.
        """
        if not self.is_shared:
            return
        self._announcing.add(connection)
        if self.is_postgresql:
            await connection.execute(text(f"SELECT pg_advisory_xact_lock({_CHANGES_LOCK})"))
        await connection.execute(insert(changes).values(kind=kind, ref=ref, at=moment(connection)))
        if self.is_postgresql:
            await connection.execute(text(f"SELECT pg_notify('{CHANNEL}', '')"))

    def _tell_announced(self, connection: AsyncConnection | None) -> None:
        """Calls `on_announced` after a transaction that announced a change.

        A transaction that failed may have been committed all the same, if its end was not heard of.
        """
        if connection in self._announcing:
            self._announcing.discard(connection)
            if self.on_announced is not None:
                self.on_announced()

    async def lock_counts(self, connection: AsyncConnection) -> None:
        """Waits until no other replica writes counts: two that lock the same rows in two orders would deadlock."""
        if self.is_postgresql:
            await connection.execute(text(f"SELECT pg_advisory_xact_lock({_COUNTS_LOCK})"))

    async def aclose(self) -> None:
        """Closes all connections; a SQLite file that this process has claimed is free for another one.

        It waits for the transactions that are under way, as long as most may take.
        """
        with suppress(TimeoutError):
            await asyncio.wait_for(self._is_idle.wait(), TRANSACTION_TIMEOUT_S)
        if self._share is None or self._file is None:
            await self._close_connections()
        else:
            with suppress(StoreUnavailable):  # another replica hangs amid its opening
                async with self._share.closing():
                    await self._close_connections()
            await self._close_connections()

    async def _close_connections(self) -> None:
        await self._engine.dispose()
        await self._reading_engine.dispose()
        if self._turns is not None:
            self._turns.close()
            self._turns = None
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._claim is not None:
            self._claim.close()
            self._claim = None

    async def _see_to_file(self) -> None:
        if self._file is not None:
            await in_thread(self._file.save)

    def _check_log(self) -> None:
        if self._file is not None:
            self._file.check_log()

    async def _open_file(self) -> None:
        """Opens SQLite's file, which it claims unless that is done. A database in memory has none."""
        lock = self._share.lock if self._share is not None else self._claim_file()
        if lock is None:
            return
        try:
            async with nullcontext() if self._share is None else self._share.opening():
                self._file = SqliteFile(lock)
                await self._open_connections()
        except BaseException:
            await self._close_connections()
            raise
        if self._share is not None:
            self._turns = WriteTurns(self._share)

    def _claim_file(self) -> SqliteLock | None:
        path = find_file(self.url)
        if path is not None:
            self._claim = SqliteLock.take(path)
        return self._claim

    async def _open_connections(self) -> None:
        """Opens the pools' connections, since each has a thread, which there may be none for later."""
        async with AsyncExitStack() as stack:
            for engine in {self._engine, self._reading_engine}:
                for _ in range(cast("QueuePool", engine.pool).size()):
                    await stack.enter_async_context(engine.connect())


def claim_for_replicas(url: str) -> SqliteShare | None:
    """Claims the SQLite file of a URL for the processes that this one forks afterwards; None for PostgreSQL.

    Each of them hands the share to its `Database`. The last of them to go frees the file.

    Raises:
        StoreUnavailable: another service has the file, there is none, or it cannot be opened.
    """
    parsed = _parsed(url)
    if parsed.get_backend_name() == "postgresql":
        return None
    try:
        path = find_file(parsed)
        if path is not None:
            return SqliteShare.make(SqliteLock.take(path))
    except (ArgumentError, sqlite3.Error, OSError) as error:
        raise _cannot_open(parsed, error) from error
    raise _cannot_open(parsed, "several replicas need a database in a file, and this one is in memory")


def sqlite_file(url: str) -> Path | None:
    """Finds the file of a SQLite database, and makes it if there is none; None if the URL names none.

    Raises:
        StoreUnavailable: it is not a URL.
        OSError: the file cannot be made.
        sqlite3.Error: the same, in SQLite's words.
    """
    parsed = _parsed(url)
    if parsed.get_backend_name() != "sqlite" or not parsed.database or parsed.database == ":memory:":
        return None
    return find_file(parsed)


def _parsed(url: str) -> URL:
    try:
        return make_url(url)
    except (ArgumentError, ValueError):
        raise StoreUnavailable("cannot open the database: DATABASE_URL is not a URL") from None


async def _begin(stack: AsyncExitStack, engine: AsyncEngine) -> AsyncConnection:
    """A connection in a transaction, which ends with `stack`; a new connection of SQLite needs a thread."""
    try:
        return await stack.enter_async_context(engine.begin())
    except RuntimeError as error:
        raise StoreUnavailable(f"no connection to the database: {error}") from error


def _cannot_open(url: URL, error: Exception | str) -> StoreUnavailable:
    place = url.set(query={}).render_as_string(hide_password=True)
    reason = error if isinstance(error, str) else _reason(error)
    return StoreUnavailable(f"cannot open the database: {reason} (DATABASE_URL={place})")


def _reason(error: Exception) -> str:
    """Tells the error, the driver's own one, in one line, without what SQLAlchemy writes around it."""
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    return str(cause).partition("\n")[0] or type(cause).__name__
