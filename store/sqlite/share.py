"""A SQLite file that several processes of one machine share: they open it one after another, and write in turns."""

import asyncio
import fcntl
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, Self

import msgspec

from routing.errors import StoreUnavailable
from store.sqlite.lock import Identity, SqliteLock, beside, identity

OPENING_TIMEOUT_S: Final = 5.0
"""The most seconds that a process waits for another one that opens or closes the database."""
_POLL_S: Final = 0.01
_OPENING: Final = 0
_IN_USE: Final = 1
_WRITING: Final = 2
"""The bytes that stand for something."""


class SqliteShare:
    """A claim on a SQLite file that is taken for several processes, before they are forked.

    They inherit a file in memory. Locks on single bytes of that (fcntl) are each process's own, and end with it: they
    tell who opens the database, who uses it, and whose turn it is to write.

    All processes must have the same write-ahead log. If somebody deletes the log, those that have it open still share
    it. A process that starts then would make another log, and each would overwrite what the others have written. So
    the first process notes which log it is, and the others do not open the database with any other.
    """

    def __init__(self, lock: SqliteLock, descriptor: int) -> None:
        """Takes the claim, and the descriptor of the file in memory."""
        self.lock = lock
        self.descriptor = descriptor

    def __repr__(self) -> str:
        return f"<SqliteShare {self.lock.path}>"

    @classmethod
    def make(cls, lock: SqliteLock) -> Self:
        """Makes the file in memory for a claim."""
        return cls(lock, os.memfd_create("poolshift-sqlite", os.MFD_CLOEXEC))

    def close(self) -> None:
        """Gives the claim up, as far as this process has it."""
        os.close(self.descriptor)
        self.lock.close()

    @asynccontextmanager
    async def opening(self) -> AsyncIterator[None]:
        """Lets the block open the database, while no other process opens or closes it.

        Raises:
            StoreUnavailable: the database is gone, or the log that the other processes have is; or another process has
                been opening the database for too long.
        """
        async with self._alone():
            is_first = self._begin_use()
            try:
                if not is_first:
                    self._compare()
                yield
                if is_first:
                    self._note()
                else:
                    self._compare()
            except BaseException:
                self._release(_IN_USE)
                raise

    @asynccontextmanager
    async def closing(self) -> AsyncIterator[None]:
        """Lets the block close the database, while no other process opens it. Raises StoreUnavailable."""
        async with self._alone():
            try:
                yield
            finally:
                self._release(_IN_USE)

    def begin_writing(self) -> None:
        """Waits for this process's turn to write."""
        fcntl.lockf(self.descriptor, fcntl.LOCK_EX, 1, _WRITING)

    def try_writing(self) -> bool:
        """Begins this process's turn to write, if it is nobody else's."""
        return self._try(_WRITING)

    def end_writing(self) -> None:
        """Ends this process's turn."""
        self._release(_WRITING)

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        deadline = time.monotonic() + OPENING_TIMEOUT_S
        while not self._try(_OPENING):
            if time.monotonic() > deadline:
                raise StoreUnavailable(f"another replica has been opening {self.lock.path} for too long")
            await asyncio.sleep(_POLL_S)
        try:
            yield
        finally:
            self._release(_OPENING)

    def _begin_use(self) -> bool:
        """Notes that this process uses the database; tells if it is the only one."""
        is_first = self._try(_IN_USE)
        fcntl.lockf(self.descriptor, fcntl.LOCK_SH, 1, _IN_USE)
        return is_first

    def _note(self) -> None:
        os.ftruncate(self.descriptor, 0)
        os.pwrite(self.descriptor, msgspec.json.encode(self._log_files()), 0)

    def _compare(self) -> None:
        """Sees that the log and its index are those that the first process has noted."""
        if msgspec.json.decode(os.pread(self.descriptor, 1024, 0), type=list[Identity]) != self._log_files():
            log = beside(self.lock.path, "-wal")
            raise StoreUnavailable(f"{log} is gone or another file, and other replicas use it: start the service again")

    def _log_files(self) -> list[Identity]:
        """Identifies the write-ahead log and its index."""
        return [identity(beside(self.lock.path, suffix)) for suffix in ("-wal", "-shm")]

    def _try(self, byte: int) -> bool:
        try:
            fcntl.lockf(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
        except (BlockingIOError, PermissionError):  # POSIX allows either
            return False
        return True

    def _release(self, byte: int) -> None:
        fcntl.lockf(self.descriptor, fcntl.LOCK_UN, 1, byte)
