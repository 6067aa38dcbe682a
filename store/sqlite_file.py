"""The file of a SQLite database: one process has it at a time, and it is noticed where it goes away."""

import fcntl
import os
from pathlib import Path
from typing import Self

from routing.errors import StoreUnavailable


class SqliteFile:
    """A file that this process alone may use, until it is closed or dies.

    What is locked is a file beside it, `<database>.lock`: it stays, empty, for the next one. SQLite's own locks are on
    the database file, and would be gone as soon as this process closed any other descriptor of it.
    """

    def __init__(self, path: Path, lock: int) -> None:
        self._path = path
        self._lock = lock
        self._identity = _identity(path)

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
        except OSError:
            os.close(lock)
            raise

    def check(self) -> None:
        """Sees that the database's file is where it was: what SQLite writes to a deleted one is lost.

        Raises:
            StoreUnavailable: it is gone, or another one is in its place.
        """
        if _identity(self._path) != self._identity:
            raise StoreUnavailable(f"{self._path} is gone or another file: put it back, or start the service anew")

    def close(self) -> None:
        """Leaves it to others."""
        os.close(self._lock)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
