"""Turns at writing to a SQLite file: its processes wait for each other in the kernel."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from queue import SimpleQueue
from typing import Final

from store.sqlite.share import SqliteShare


class WriteTurns:
    """Gives one writer at a time its turn, among all processes that share a SQLite file.

    SQLite has waiting writers look again after up to 100 ms, so one that is unlucky waits for seconds while others
    write. The kernel wakes a waiting process as soon as the turn ends. A process that dies ends its turn by that.
    """

    def __init__(self, share: SqliteShare) -> None:
        """Starts the thread that waits. It does not keep the process from ending."""
        self._share: Final = share
        self._ours = asyncio.Lock()
        """Whoever has it writes, or waits in the thread, for this process."""
        self._wanted: SimpleQueue[asyncio.Future[None] | None] = SimpleQueue()
        threading.Thread(target=self._wait_in_turn, name="poolshift-turns", daemon=True).start()

    def __repr__(self) -> str:
        return f"<WriteTurns {self._share.lock.path} taken={self._ours.locked()}>"

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Waits for the turn, which ends with the block."""
        await self._ours.acquire()
        taken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._share.try_writing():
            taken.set_result(None)
        else:
            self._wanted.put(taken)
        try:
            await asyncio.shield(taken)
            yield
        finally:
            if taken.done():
                self._end(taken)
            else:  # nobody waits for it any more: it ends as soon as it comes
                taken.add_done_callback(self._end)

    def close(self) -> None:
        """Ends the thread, as soon as it waits for nothing."""
        self._wanted.put(None)

    def _end(self, _: "asyncio.Future[None]") -> None:
        self._share.end_writing()
        self._ours.release()

    def _wait_in_turn(self) -> None:
        while (taken := self._wanted.get()) is not None:
            failure = None
            try:
                self._share.begin_writing()
            except OSError as error:
                failure = error
            with suppress(RuntimeError):  # the event loop has ended, and the process is about to
                taken.get_loop().call_soon_threadsafe(_tell, taken, failure)


def _tell(taken: "asyncio.Future[None]", failure: OSError | None) -> None:
    if failure is None:
        taken.set_result(None)
    else:
        taken.set_exception(failure)
