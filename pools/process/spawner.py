"""Starts the worker processes of one pool, and keeps a zygote alive to fork them from."""

import asyncio
import itertools
from collections.abc import Callable, Mapping, Sequence

import structlog

from common.background import Background, Health
from common.tasks import TaskOwner
from common.threads import in_thread
from pools.errors import SpawnFailed, WorkerCrashed
from pools.process.checks import Checks
from pools.process.exits import ExitCause
from pools.process.host import LocalHost, ZygoteHost
from pools.process.interface import Worker
from pools.process.process import WorkerProcess
from pools.process.program_code import ProgramCode, RecentModules
from pools.process.stats import ProcessStats
from pools.process.zygote_link import ZygoteLink
from pools.process.zygote_start import START_TIMEOUT_S, ZygoteStarter, import_failures
from poolshift.worker.definitions import Definition, Signature
from poolshift.worker.describe import Description

PING_INTERVAL_S = 1.0
"""Time between two looks at the zygotes."""

_log = structlog.stdlib.get_logger("poolshift.spawner")


class Spawner:
    """Starts the workers of one pool from its zygote. A zygote that dies takes its workers along and is replaced."""

    def __init__(
        self,
        code: ProgramCode,
        environment: Mapping[str, str],
        *,
        background: Background,
        user: tuple[int, int] | None = None,
        host: ZygoteHost | None = None,
        recent: RecentModules | None = None,
        health: Health | None = None,
    ) -> None:
        """Takes as `environment` all that a worker sees of the service's environment.

        Args:
            code: what workers load, and the interpreter.
            environment: the variables of the zygotes.
            background: runs the watchdog.
            user: the user id and the group id that workers change to.
            host: the machine of the zygotes; None is this one.
            recent: the modules that programs named recently, if several spawners of one pool share them.
            health: takes failures to start; None makes this spawner a vital part of the service.
        """
        self._code = code
        self._user = user
        self._on_new_code: Callable[[], None] | None = None
        self._revision_on_disk: str | None = None
        self._revision_told: str | None = None
        self._generations = itertools.count(1)
        self._zygote: ZygoteLink | None = None
        """The zygote that forks at the moment."""
        self._zygotes: set[ZygoteLink] = set()
        """The same, and those that have retired and still have workers."""
        self._starter = ZygoteStarter(
            code,
            host or LocalHost(code, dict(environment)),
            recent or RecentModules(),
            user,
            self._zygotes,
            self._ended,
        )
        self._start: asyncio.Task[None] | None = None
        """The start of a zygote that is under way."""
        self._has_begun = False
        """True once that start may have read code."""
        self._is_closing = False
        self._revision: str | None = None
        self._checks = Checks(self.spawn, code.load_timeout_s)
        self._tasks = TaskOwner("zygotes", is_detached=True)
        self._background = background
        self._health = health or background.vital("spawner")
        self._watch = background.run("zygote_watchdog", self._ping_zygotes, is_vital=health is None)

    def __repr__(self) -> str:
        return f"<Spawner zygotes={sorted(map(repr, self._zygotes))}>"

    async def spawn(self) -> WorkerProcess:
        """Starts a worker and returns it when it is ready.

        Raises:
            SpawnFailed: it could not be started, or died at once. No descriptor and no process of it is left.
        """
        try:
            zygote = await self._running_zygote()
            self._code.check_folder()  # a zygote outlives it, and its workers could load nothing
            worker = await zygote.fork(next(self._generations), self._user)
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

    async def check(self, definition: Definition) -> Signature | None:
        """Tries to load `definition` in a worker of its own, which is in no pool.

        Returns the derived signature, if the definition leaves its signature to the program.

        Raises:
            CodeOutdated: the pool's workers have other code than the disk.
            EntrypointError: it cannot be loaded, and why; a module that hangs or dies on import is also one.
            PoolOverloaded: too many definitions are being checked.
            SpawnFailed: no worker could be started for it.
        """
        return await self._checks.check(definition)

    async def describe(self) -> Description:
        """Tells the Python of the workers and the packages that they find.

        Raises:
            SpawnFailed: the interpreter cannot run workers, and why.
        """
        return await self._starter.describe()

    @property
    def start_failure(self) -> str | None:
        """The reason for which no zygote can serve that only the operator can repair; None once one serves."""
        return self._starter.failure

    @property
    def revision(self) -> str | None:
        """The revision of the code that workers have which are started now; None before the first start."""
        return self._revision

    def watch_code(self, on_new_code: Callable[[], None]) -> None:
        """Calls `on_new_code` each time that the code on disk has changed and is settled."""
        self._on_new_code = on_new_code

    async def renew(self) -> None:
        """Replaces the zygote, so that workers which are started from now on run the code that is on disk now.

        Workers of the old zygote live on, and it lives for as long as they do.

        Raises:
            SpawnFailed: the new zygote did not get ready, or cannot import a module of `PRELOAD`, or one that programs
                named recently; or another of the allowed modules cannot be imported. The old one forks as before.
        """
        await self._starter.check_untried()
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
        await self._tasks.finish()

    @property
    def places(self) -> int | None:
        """None: the pool's size alone limits the workers on this machine."""
        return None

    def watch_places(self, listener: Callable[[], None]) -> None:
        """Does nothing: `places` never changes."""

    async def measure(self, workers: Sequence[Worker]) -> list[ProcessStats | None]:
        """Measures the workers in a thread, since the kernel takes its time and the event loop has none."""
        return await in_thread(lambda: [worker.stats() for worker in workers])

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
        recent = self._starter.recent_names()
        try:
            zygote, preloaded = await self._starter.start(recent)
        except SpawnFailed as error:
            if not recent or self._zygote is not None:
                raise self._starter.explained(error, recent, is_first=self._revision is None) from None
            self._starter.forget_recent()
            zygote, preloaded = await self._starter.start(())
        if self._revision is None or self._zygote is not None:
            self._starter.refuse_failures(zygote, preloaded)
        elif (reasons := import_failures(preloaded)) is not None:  # the one before has died, and workers must start
            _log.error("workers start without modules that cannot be imported", reasons=reasons)
        if self._zygote is None and self._revision not in (None, preloaded.revision):
            _log.warning(
                "the zygote that died had other code than the one that follows it",
                before=self._revision,
                now=preloaded.revision,
            )
        self._revision = self._revision_on_disk = preloaded.revision
        self._starter.failure = None
        old, self._zygote = self._zygote, zygote
        if old is not None:
            old.retire()

    def _ended(self, zygote: ZygoteLink) -> None:
        """Forgets a zygote that was lost, and closes one that has retired and has no worker left."""
        if self._zygote is zygote:
            self._zygote = None
        if zygote in self._zygotes:
            self._zygotes.discard(zygote)
            self._tasks.start(zygote.aclose())

    async def _ping_zygotes(self) -> None:
        """Finds zygotes that do not answer, and new code on disk if somebody wants to know."""
        while True:
            await asyncio.sleep(PING_INTERVAL_S)
            for zygote in list(self._zygotes):
                zygote.ping(asks_revision=self._on_new_code is not None and zygote is self._zygote)
            self._look_at_code()

    def _look_at_code(self) -> None:
        """Tells of new code once two looks have found the same: a file may be half-written."""
        on_disk = None if self._zygote is None else self._zygote.revision_on_disk
        if on_disk is None:
            return
        is_settled, self._revision_on_disk = on_disk == self._revision_on_disk, on_disk
        is_news = on_disk not in (self._revision, self._revision_told)
        if is_news and is_settled and self._on_new_code is not None:
            self._revision_told = on_disk  # once: code that is refused is tried again when it changes
            self._on_new_code()
