"""The file of a SQLite database. One process has it at a time, and its deletion is noticed."""

import fcntl
import os
import sqlite3
import threading
from pathlib import Path
from typing import Self

import structlog

from routing.errors import StoreUnavailable

_log = structlog.stdlib.get_logger(__name__)


class SqliteFile:
    """A file that this process alone may use, until it is closed or dies.

    What is locked is a file beside it, `<database>.lock`: it stays, empty, for the next one. SQLite's own locks are on
    the database file, and would be gone as soon as this process closed any other descriptor of it.

    A connection of its own keeps the write-ahead log (`<database>-wal`) for as long as this process serves. If somebody
    deletes the log, that connection still has it, and can write what is in it to the database.
    """

    def __init__(self, path: Path, lock: int) -> None:
        self._path = path
        self._log_path = path.with_name(f"{path.name}-wal")
        self._lock = lock
        self._keeper = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._keeper.execute("SELECT count(*) FROM sqlite_master").fetchall()  # opens the log
        self._one_at_a_time = threading.Lock()
        self._identity = _identity(path)
        self._log_identity = _identity(self._log_path)
        self._is_log_gone = False

    @classmethod
    def claim(cls, path: Path) -> Self:
        """Takes the file for this process.

        Raises:
            StoreUnavailable: another process has it.
            OSError: the lock file cannot be written.
        """
        lock_path = path.with_name(f"{path.name}.lock")
        lock = os.open(lock_path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return cls(path, lock)
        except BlockingIOError:
            os.close(lock)
            raise StoreUnavailable(f"cannot open the database: another process serves {path}") from None
        except sqlite3.Error as error:
            os.close(lock)
            raise StoreUnavailable(f"cannot open the database: {error}") from error
        except OSError:
            os.close(lock)
            raise

    def check(self) -> None:
        """Sees that the database's file is where it was: what SQLite writes to a deleted one is lost.

        Raises:
            StoreUnavailable: it is gone, or another one is in its place.
        """
        if _identity(self._path) != self._identity:
            raise StoreUnavailable(f"{self._path} is gone or another file: put it back, or start the service again")

    def save(self) -> None:
        """Writes the log to the database if somebody has deleted or replaced the log: nothing acknowledged is lost.

        Raises:
            StoreUnavailable: that cannot be done now; the last writes may be in the deleted log alone.
        """
        self.check()
        if _identity(self._log_path) == self._log_identity:
            return
        if not self._is_log_gone:
            self._is_log_gone = True
            _log.error("the database's log is gone; each write is saved without it", path=str(self._log_path))
        try:
            with self._one_at_a_time:
                ((is_busy, _, _),) = self._keeper.execute("PRAGMA wal_checkpoint(FULL)").fetchall()
        except sqlite3.Error as error:
            raise StoreUnavailable(f"{self._log_path} is gone, and its content is not saved: {error}") from error
        if is_busy:
            raise StoreUnavailable(f"{self._log_path} is gone, and its content is not saved yet")

    def close(self) -> None:
        """Releases the file for other processes."""
        self._keeper.close()
        os.close(self._lock)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
