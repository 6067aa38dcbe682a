"""The claim on a SQLite file: one service has the file at a time."""

import fcntl
import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import Self

from sqlalchemy.engine import URL

from routing.errors import StoreUnavailable

Identity = tuple[int, int] | None
"""The device and the inode of a file; None if there is no file."""


class SqliteLock:
    """A claim on a SQLite file, for the process that takes it and for those that it forks afterwards.

    What is locked is a file beside the database, `<database>.lock`, which stays for the next claim. SQLite's own locks
    are on the database file: a process that closed any other descriptor of that file would lose them.

    The lock is one of the open file (flock). Forked processes inherit it, so the last of them to go gives it up.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        """Takes the database's path, and the descriptor of the lock file that has the lock."""
        self.path = path
        self.descriptor = descriptor
        self._identity = identity(path)

    def __repr__(self) -> str:
        return f"<SqliteLock {self.path}>"

    @classmethod
    def take(cls, path: Path) -> Self:
        """Claims the file at `path`, which is there.

        Raises:
            StoreUnavailable: another service has it.
            OSError: the lock file cannot be written.
        """
        descriptor = os.open(beside(path, ".lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise StoreUnavailable(f"cannot open the database: another process serves {path}") from None
        except OSError:
            os.close(descriptor)
            raise
        return cls(path, descriptor)

    def check(self) -> None:
        """Sees that the database's file is the claimed one: what SQLite writes to a deleted one is lost.

        Raises:
            StoreUnavailable: it is gone, or another one is in its place.
        """
        if identity(self.path) != self._identity:
            raise StoreUnavailable(f"{self.path} is gone or another file: put it back, or start the service again")

    def close(self) -> None:
        """Gives the claim up, as far as this process has it."""
        os.close(self.descriptor)


def find_file(url: URL) -> Path | None:
    """Asks SQLite which file a URL means, and makes the file if there is none; None for a database in memory.

    Raises:
        OSError: the file cannot be made.
        sqlite3.Error: the same, in SQLite's words.
    """
    _create(url)
    (name, *_), options = url.get_dialect()().create_connect_args(url)
    with closing(sqlite3.connect(name, uri=options.get("uri", False))) as connection:
        (path,) = connection.execute("SELECT file FROM pragma_database_list WHERE name = 'main'").fetchone()
    return Path(path) if path else None


def _create(url: URL) -> None:
    """Creates the file with a mode for its owner alone; SQLite's files beside it get the same mode.

    An existing file keeps its mode: its operator may have a reason.
    """
    if url.database and url.database != ":memory:" and not url.query:
        with suppress(FileExistsError):
            os.close(os.open(url.database, os.O_CREAT | os.O_EXCL, 0o600))


def beside(path: Path, suffix: str) -> Path:
    """Names a file that belongs to the database at `path`."""
    return path.with_name(path.name + suffix)


def identity(path: Path) -> Identity:
    """Identifies the file at `path`."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
