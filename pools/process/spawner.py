"""Starts worker processes for all pools, and keeps a zygote alive to fork them from."""

import asyncio
import itertools
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import structlog

from common.background import Background
from common.tasks import TaskOwner
from pools.errors import SpawnFailed, WorkerCrashed
from pools.process.checks import Checks
from pools.process.exits import ExitCause
from pools.process.process import WorkerProcess
from pools.process.zygote_link import ZygoteLink
from poolshift.worker import linux
from poolshift.worker.definitions import Definition

START_TIMEOUT_S = 60.0
"""For the zygote to import what it preloads, and for a worker to say that it is ready."""
PING_INTERVAL_S = 1.0
"""Between two looks at the zygotes."""

_log = structlog.stdlib.get_logger("poolshift.spawner")


class Spawner:
    """Starts worker processes. Both pools share one; a zygote that dies takes its workers along and is replaced."""

    def __init__(
        self,
        allowed_modules: Sequence[str],
        environment: Mapping[str, str],
        preload: Sequence[str] = (),
        *,
        own_root: Path,
        background: Background,
        user: tuple[int, int] | None = None,
    ) -> None:
        """Takes the service's own folder as `own_root`: a worker finds the examples there, and nothing else.

        `environment` is all that a worker sees of the service's environment. `user` is the user id and the group id
        that workers change to.
        """
        self._allowed_modules = tuple(allowed_modules)
        self._environment = dict(environment)
        self._preload = tuple(preload)
        self._own_root = own_root
        self._user = user
        self._generations = itertools.count(1)
        self._zygote: ZygoteLink | None = None
        """The zygote that forks at the moment."""
        self._zygotes: set[ZygoteLink] = set()
        """The same, and those that have retired and still have workers."""
        self._start: asyncio.Task[None] | None = None
        """The start of a zygote that is under way."""
        self._has_begun = False
        """True once that start may have read code."""
        self._is_closing = False
        self._checks = Checks(self.spawn)
        self._tasks = TaskOwner("zygotes", is_detached=True)
        self._background = background
        self._health = background.vital("spawner")
        self._watch = background.run("zygote_watchdog", self._ping_zygotes, is_vital=True)

    def __repr__(self) -> str:
        return f"<Spawner zygotes={sorted(map(repr, self._zygotes))}>"

    async def spawn(self) -> WorkerProcess:
        """Starts a worker and returns it when it is ready.

        Raises:
            SpawnFailed: it could not be started, or died at once. No descriptor and no process of it is left.
        """
        try:
            zygote = await self._running_zygote()
            worker = zygote.fork(next(self._generations), self._user)
        except OSError as error:
            self._health.failed()
            raise SpawnFailed(f"no worker could be asked for: {error}") from error
        except SpawnFailed:
            self._health.failed()
            raise
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await asyncio.shield(worker.ready)
        except (WorkerCrashed, TimeoutError) as error:
            worker.kill(ExitCause.CRASH)
            if not worker.is_forked:
                self._health.failed()
            raise SpawnFailed(f"a worker did not get ready: {error}") from None
        except asyncio.CancelledError:
            worker.kill(ExitCause.SHUTDOWN)
            raise
        self._health.works()
        return worker

    async def check(self, definition: Definition) -> None:
        """Tries to load `definition` in a worker of its own, which is in no pool.

        Raises:
            EntrypointError: it cannot be loaded, and why; a module that hangs or dies on import is also one.
            PoolOverloaded: too many definitions are being checked.
            SpawnFailed: no worker could be started for it.
        """
        await self._checks.check(definition)

    async def renew(self) -> None:
        """Replaces the zygote, so that workers which are started from now on run the code that is on disk now.

        Workers of the old zygote live on, and it lives for as long as they do.

        Raises:
            SpawnFailed: the new zygote did not get ready; the old one forks as before.
        """
        if self._start is not None and self._has_begun:
            await asyncio.wait([self._start])  # it may have read the code before
        await self._next_zygote()

    async def aclose(self) -> None:
        """Ends the zygotes and with them every worker that is left; returns when all are dead."""
        self._is_closing = True
        await self._background.stop(self._watch)
        if self._start is not None:
            self._start.cancel()
            await asyncio.wait([self._start])
        self._zygote = None
        await asyncio.gather(*(zygote.aclose() for zygote in self._zygotes))
        await self._tasks.aclose()

    # --- zygotes

    async def _running_zygote(self) -> ZygoteLink:
        if self._zygote is None:
            await self._next_zygote()
        if self._zygote is None:
            raise SpawnFailed("the zygote has died")
        return self._zygote

    async def _next_zygote(self) -> None:
        """Waits for a zygote that is being started, or starts one: whoever asks meanwhile shares the start."""
        if self._is_closing:
            raise SpawnFailed("no worker is started any more")
        if self._start is None:
            self._has_begun = False
            self._start = asyncio.create_task(self._replace_zygote())
            self._start.add_done_callback(self._start_ended)
        await asyncio.shield(self._start)

    def _start_ended(self, start: asyncio.Task[None]) -> None:
        self._start = None
        if not start.cancelled():
            start.exception()  # whoever waits for it is told; nobody may be waiting

    async def _replace_zygote(self) -> None:
        self._has_begun = True
        try:
            zygote = self._start_zygote()
        except OSError as error:
            raise SpawnFailed(f"the zygote could not be started: {error}") from error
        self._zygotes.add(zygote)
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await zygote.preloaded
        except TimeoutError:
            zygote.kill()
            raise SpawnFailed("the zygote did not get ready") from None
        old, self._zygote = self._zygote, zygote
        if old is not None:
            old.retire()

    def _start_zygote(self) -> ZygoteLink:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with theirs:
            try:
                # Not asyncio's: uvloop leaves descriptors open if there are too few to start a process.
                process = subprocess.Popen(  # noqa: S603
                    [
                        sys.executable,
                        "-P",
                        "-m",
                        "poolshift.worker.zygote",
                        str(theirs.fileno()),
                        ",".join(self._allowed_modules),
                        ",".join(self._preload),
                        str(linux.OPEN_FILES_AT_START),
                        str(self._own_root),
                    ],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    env=self._environment,
                    start_new_session=True,
                )
            except BaseException:
                ours.close()
                raise
        return ZygoteLink(process, ours, self._ended)

    def _ended(self, zygote: ZygoteLink) -> None:
        """Forgets a zygote that was lost, and closes one that has retired and has no worker left."""
        if self._zygote is zygote:
            self._zygote = None
        if zygote in self._zygotes:
            self._zygotes.discard(zygote)
            self._tasks.start(zygote.aclose())

    async def _ping_zygotes(self) -> None:
        """Finds zygotes that do not answer."""
        while True:
            await asyncio.sleep(PING_INTERVAL_S)
            for zygote in list(self._zygotes):
                zygote.ping()
