"""The file of a SQLite database, as one process uses it. Its deletion is noticed, and that of its log loses nothing."""

import sqlite3
import threading
import time
from typing import Final

import structlog

from routing.errors import StoreUnavailable
from store.sqlite.lock import SqliteLock, beside, identity

SAVE_TIMEOUT_S: Final = 4.0
"""The most seconds that the content of a deleted log may take to be saved."""
_BUSY_TIMEOUT_S: Final = 1.0
_RETRY_S: Final = 0.005
_log = structlog.stdlib.get_logger(__name__)


class SqliteFile:
    """A claimed file that this process uses, until it is closed or dies.

    A connection of its own keeps the write-ahead log (`<database>-wal`) for as long as this process serves. If somebody
    deletes the log, that connection still has it, and can write what is in it to the database. The other processes that
    share the database have the same log, and do the same.
    """

    def __init__(self, lock: SqliteLock) -> None:
        """Opens the file that `lock` claims.

        Raises:
            StoreUnavailable: it is gone.
            sqlite3.Error: SQLite cannot open it.
        """
        self._lock = lock
        self._log_path = beside(lock.path, "-wal")
        lock.check()
        self._keeper = _keeper(lock)
        self._log_identity = identity(self._log_path)
        self._one_at_a_time = threading.Lock()
        self._is_log_gone = False

    def __repr__(self) -> str:
        return f"<SqliteFile {self._lock.path} is_log_gone={self._is_log_gone}>"

    def check_log(self) -> None:
        """Sees that a new connection gets the log that the others have: with another log it destroys the database.

        Raises:
            StoreUnavailable: the log is gone, or another one is in its place.
        """
        if identity(self._log_path) != self._log_identity:
            raise StoreUnavailable(f"{self._log_path} is gone or another file: start the service again")

    def save(self) -> None:
        """Writes the log to the database if somebody has deleted or replaced the log: nothing acknowledged is lost.

        Raises:
            StoreUnavailable: the database is gone; or what the log alone has cannot be saved now.
        """
        self._lock.check()
        if identity(self._log_path) == self._log_identity:
            return
        if not self._is_log_gone:
            self._is_log_gone = True
            _log.error("the database's log is gone; each write is saved without it", path=str(self._log_path))
        deadline = time.monotonic() + SAVE_TIMEOUT_S
        while not self._checkpoint():  # another process's checkpoint does not make SQLite wait
            if time.monotonic() >= deadline:
                raise StoreUnavailable(f"{self._log_path} is gone, and its content is not saved yet")
            time.sleep(_RETRY_S)

    def _checkpoint(self) -> bool:
        """Writes all of the log to the database; False if others are at work, so that some of it is left."""
        try:
            with self._one_at_a_time:
                ((is_busy, _, _),) = self._keeper.execute("PRAGMA wal_checkpoint(FULL)").fetchall()
        except sqlite3.Error as error:
            raise StoreUnavailable(f"{self._log_path} is gone, and its content is not saved: {error}") from error
        return not is_busy

    def close(self) -> None:
        """Ends the use of the file by this process."""
        self._keeper.close()


def _keeper(lock: SqliteLock) -> sqlite3.Connection:
    """Opens the connection that keeps the log."""
    keeper = sqlite3.connect(lock.path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    try:
        keeper.execute("PRAGMA journal_mode=WAL").fetchall()
        keeper.execute("SELECT count(*) FROM sqlite_master").fetchall()  # opens the log
        lock.check()
    except BaseException:
        keeper.close()
        raise
    return keeper
