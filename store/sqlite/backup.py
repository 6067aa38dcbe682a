"""Copies of a SQLite database: taken while services write to it, checked, and put back."""

import os
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from store.sqlite.lock import SqliteLock, beside

_MOST_FAULTS = 10


class UnusableCopy(Exception):
    """A file that is no whole database of the service's; the message says what is wrong with it."""


def copy_database(path: Path, target: Path) -> None:
    """Writes the database at `path`, as it is at this moment, to the new file `target`, which its owner alone may read.

    Services go on meanwhile: one transaction reads all pages, and the write-ahead log takes what is written.

    Raises:
        FileExistsError: `target` is there already.
        OSError: it cannot be written.
        sqlite3.Error: the database cannot be read.
    """
    os.close(os.open(target, os.O_CREAT | os.O_EXCL, 0o600))
    try:
        with closing(_reading(path)) as source, closing(sqlite3.connect(target)) as copy:
            source.backup(copy)
            copy.execute("PRAGMA journal_mode=DELETE")  # a copy is one file
    except BaseException:
        target.unlink()
        raise


def check_database(path: Path) -> str:
    """Reads all of a database, and returns the revision of its schema.

    Raises:
        UnusableCopy: pages, indices or references are broken, or it is another program's database.
    """
    if not path.is_file():
        raise UnusableCopy(f"{path}: there is no such file")
    try:
        with closing(_reading(path)) as connection:
            faults = [told for (told,) in connection.execute(f"PRAGMA integrity_check({_MOST_FAULTS})") if told != "ok"]
            faults += [
                f"{table} refers to what is not there" for table, *_ in connection.execute("PRAGMA foreign_key_check")
            ]
            if faults:
                raise UnusableCopy(f"{path} is damaged: {'; '.join(faults[:_MOST_FAULTS])}")
            ((revision,),) = connection.execute("SELECT version_num FROM alembic_version").fetchall()
    except (sqlite3.Error, ValueError) as error:
        raise UnusableCopy(f"{path} is no database of Poolshift's: {error}") from None
    return str(revision)


def restore_database(copy: Path, path: Path) -> Path | None:
    """Gives the database at `path` the content of a copy that has been checked.

    Returns a copy of what the database had before; None if it was empty.

    SQLite writes the content as one transaction: a machine that stops amid it has the former content at the next start.

    Raises:
        StoreUnavailable: a service has the database.
        OSError: a file cannot be written.
        sqlite3.Error: the same, in SQLite's words.
    """
    lock = SqliteLock.take(path)
    try:
        before = None
        if path.stat().st_size:
            before = beside(path, f".before-{datetime.now(UTC):%Y%m%dT%H%M%S.%f}Z")
            copy_database(path, before)
        with closing(_reading(copy)) as source, closing(sqlite3.connect(path)) as target:
            source.backup(target)
    finally:
        lock.close()
    return before


def _reading(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
