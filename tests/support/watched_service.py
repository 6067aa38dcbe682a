"""`poolshift` whose event loop measures itself: `python -m tests.support.watched_service serve`.

Each beat of the loop's heart measures the processor time that the loop's thread spent since the beat before. Unlike the
time of the clock, that is the same on a busy machine.
"""

import asyncio
import os
import socket
import sys
import time
from pathlib import Path

import _poolshift_service

sys.path.insert(0, str(_poolshift_service.root()))  # the packages below lie in a folder of the wheel

import app.server
from cli.main import main

HOLDS = "LOOP_HOLDS"
"""The variable that names the file for the holds: one line each, in milliseconds."""
TOLD_MS = 10.0
"""A shorter hold is not told."""
_PERIOD_S = 0.002


class WatchedServer(app.server.Server):
    """A server that tells each hold of its event loop."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As the server's own, after which the loop is measured."""
        await super().startup(sockets)
        loop = asyncio.get_running_loop()
        with Path(os.environ[HOLDS]).open("w") as holds:  # noqa: ASYNC230  # nothing is served yet
            number = os.dup(holds.fileno())

        def beat(since: float) -> None:
            spent_ms = (time.thread_time() - since) * 1000
            if spent_ms > TOLD_MS:
                os.write(number, f"{spent_ms:.1f}\n".encode())
            loop.call_later(_PERIOD_S, beat, time.thread_time())

        beat(time.thread_time())


if __name__ == "__main__":
    app.server.Server = WatchedServer  # type: ignore[misc]
    main()
