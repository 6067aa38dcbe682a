"""Migrated SQLite files by the copy, since to migrate one takes four times as long; and their locks."""

import asyncio
import atexit
import shutil
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from store.database import Database


def copy_migrated(path: Path) -> None:
    """Makes `path` the database of a service that has started once and kept nothing."""
    shutil.copy(_migrated(), path)


@cache
def _migrated() -> Path:
    folder = mkdtemp(prefix="poolshift-database-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = Path(folder, "migrated.db")
    with ThreadPoolExecutor(1) as thread:  # the caller may run in an event loop
        thread.submit(lambda: asyncio.run(_migrate(path))).result()
    return path


async def _migrate(path: Path) -> None:
    database = Database(f"sqlite+aiosqlite:///{path}")
    await database.migrate()
    await database.aclose()


class WriteLock:
    """The lock of SQLite's only writer, which another process than the service has."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30)
        self._connection.execute("BEGIN IMMEDIATE")

    def release(self) -> None:
        """Gives it back without having written anything."""
        self._connection.close()


@contextmanager
def write_locked(path: Path) -> Iterator[WriteLock]:
    """Keeps everybody else from writing to a SQLite database during the block; readers go on."""
    lock = WriteLock(path)
    try:
        yield lock
    finally:
        lock.release()
