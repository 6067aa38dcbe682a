"""A mutex of all replicas of a machine. The kernel frees it when its holder dies."""

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

_LOOK_AGAIN_S: Final = 0.05


class Mutex:
    """Lets one task at a time go on, among those of all processes that are forked after it was made."""

    def __init__(self) -> None:
        self._descriptor = os.memfd_create("poolshift-mutex", os.MFD_CLOEXEC)
        self._ours = asyncio.Lock()
        """The lock on the file is the process's: this one tells its tasks apart."""

    def __repr__(self) -> str:
        return f"<Mutex wanted_here={self._ours.locked()}>"

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Waits until nobody else has it, and has it until the end of the block."""
        async with self._ours:
            while not self._try():  # noqa: ASYNC110 - no other process can set an event of this one
                await asyncio.sleep(_LOOK_AGAIN_S)
            try:
                yield
            finally:
                fcntl.lockf(self._descriptor, fcntl.LOCK_UN)

    def _try(self) -> bool:
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # POSIX allows either
            return False
        return True
