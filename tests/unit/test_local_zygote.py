"""The pipes of a worker on this machine."""

import fcntl
import os
import stat
import subprocess
import sys
from collections.abc import AsyncIterator

import pytest

from common import own_process
from pools.process.ends import close_all
from pools.process.local_zygote import PIPE_BYTES, LocalZygote

pytestmark = pytest.mark.anyio

_WITHOUT_ROOM = """
import asyncio, fcntl, os
from pools.process.local_zygote import LocalZygote

async def main():
    zygote = LocalZygote.start(["/bin/true"], {})
    ours, theirs = await zygote.open_ends(1)
    os.write(ours.requests, b"a request")
    print(os.read(theirs[0], 99))

os.setuid(65534)
held = []
try:
    while True:
        held.append(os.pipe())
        fcntl.fcntl(held[-1][0], fcntl.F_SETPIPE_SZ, 1 << 20)
except PermissionError:
    asyncio.run(main())
"""


@pytest.fixture
async def zygote() -> AsyncIterator[LocalZygote]:
    """A process that forks nothing."""
    zygote = LocalZygote.start(["/bin/sleep", "60"], {})
    yield zygote
    zygote.hang_up()
    zygote._process.kill()
    assert await zygote.is_dead_within(60)


async def test_pipes_have_room_and_no_name(zygote: LocalZygote) -> None:
    """Requests and replies have `PIPE_BYTES`, and a mode by which nobody opens them in /proc."""
    ours, theirs = await zygote.open_ends(1)
    try:
        for pipe in (ours.requests, ours.replies):
            assert fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ) == PIPE_BYTES
            assert stat.S_IMODE(os.fstat(pipe).st_mode) == 0
        os.write(ours.requests, b"a request")
        os.write(theirs[1], b"a reply")
        os.write(theirs[2], b"a line")
        assert [os.read(fd, 99) for fd in (theirs[0], ours.replies, ours.output)] == [
            b"a request",
            b"a reply",
            b"a line",
        ]
    finally:
        ours.close()
        close_all(theirs)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user who has nothing yet")
def test_a_user_may_have_no_room_in_pipes() -> None:
    """Whoever has used up what Linux allows a user gets small pipes, and workers all the same (pipe(7))."""
    command = [sys.executable, "-c", _WITHOUT_ROOM]
    done = subprocess.run(
        command, env=own_process.environment({}), capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "b'a request'\n"
