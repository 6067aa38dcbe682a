"""Starts the worker processes of one pool, and keeps a zygote alive to fork them from."""

import asyncio
import itertools
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any

import structlog

from common.background import Background, Health
from common.tasks import TaskOwner
from common.threads import in_thread
from pools.errors import NoPreviousCode, SpawnFailed, WorkerCrashed
from pools.process.checks import Checks
from pools.process.code_watch import CodeWatch
from pools.process.exits import ExitCause
from pools.process.host import LocalHost, ZygoteHost
from pools.process.interface import Loads, TryOut, Worker
from pools.process.process import WorkerProcess
from pools.process.program_code import NO_SEEDS, ProgramCode, RecentModules, Seeds
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
        seeds: Seeds = NO_SEEDS,
        health: Health | None = None,
        keeps_previous: bool = True,
    ) -> None:
        """Takes as `environment` all that a worker sees of the service's environment.

        Args:
            code: what workers load, and the interpreter.
            environment: the variables of the zygotes.
            background: runs the watchdog.
            user: the user id and the group id that workers change to.
            host: the machine of the zygotes; None is this one.
            recent: the modules that programs named recently, if several spawners of one pool share them.
            seeds: the programs whose modules the first zygote imports, if no `recent` is given.
            health: takes failures to start; None makes this spawner a vital part of the service.
            keeps_previous: a zygote that is replaced by one with other code is kept (`bring_back`).
        """
        self._code = code
        self._user = user
        self._code_watch = CodeWatch()
        self._generations = itertools.count(1)
        self._zygote: ZygoteLink | None = None
        """The zygote that forks at the moment."""
        self._zygotes: set[ZygoteLink] = set()
        """The same, the previous one, and those that have retired and still have workers."""
        self._keeps_previous = keeps_previous
        self._previous: ZygoteLink | None = None
        """The zygote with the code before the last renewal with other code: nothing is forked from it."""
        self._starter = ZygoteStarter(
            code,
            host or LocalHost(code, dict(environment)),
            recent or RecentModules(seeds.definitions, code.allowed_modules),
            seeds.limit_s,
            user,
            self._zygotes,
            self._ended,
        )
        self._start: asyncio.Task[None] | None = None
        """The start of a zygote while there is none."""
        self._starts: set[asyncio.Task[None]] = set()
        """The same, and a renewal that is under way."""
        self._renewing = asyncio.Lock()
        self._is_closing = False
        self._revision: str | None = None
        self._commit: str | None = None
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
        except SpawnFailed:
            self._health.failed()
            raise
        return await self._worker_of(zygote, self._health)

    async def _worker_of(self, zygote: ZygoteLink, health: Health) -> WorkerProcess:
        """Has a zygote fork a worker, and returns it when it is ready; `health` takes a failure. Raises SpawnFailed."""
        try:
            self._code.check_folder()  # a zygote outlives it, and its workers could load nothing
            worker = await zygote.fork(next(self._generations), self._user)
        except OSError as error:
            health.failed()
            raise SpawnFailed(f"no worker could be asked for: {error}") from error
        except SpawnFailed:
            health.failed()
            raise
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await asyncio.shield(worker.ready)
        except (WorkerCrashed, TimeoutError) as error:
            worker.kill(ExitCause.CRASH)
            if not worker.is_forked:
                health.failed()
            raise SpawnFailed(f"a worker did not get ready: {error}") from None
        except asyncio.CancelledError:
            worker.kill(ExitCause.SHUTDOWN)
            raise
        health.works()
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

    async def load(self, definition: Definition) -> None:
        """Loads `definition` as its first call would (see `pools.process.interface.WorkerSpawner.load`)."""
        await self._checks.load(definition)

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

    @property
    def commit(self) -> str | None:
        """The git commit of that code; None if it is of no single one."""
        return self._commit

    def watch_code(self, on_new_code: Callable[[], None]) -> None:
        """Calls `on_new_code` each time that the code on disk has changed and is settled."""
        self._code_watch.listener = on_new_code

    async def renew(self, try_out: TryOut | None = None, *, is_forced: bool = False) -> None:
        """Replaces the zygote, so that workers which are started from now on run the code that is on disk now.

        Workers of the old zygote live on. It lives for as long as they do, or until other code is the previous one.

        Raises:
            SpawnFailed: the new zygote did not get ready, or cannot import a module of `PRELOAD`, or `try_out` refuses
                it. Unless `is_forced`, also if it cannot import a module that programs named recently, or if another of
                the allowed modules cannot be imported. The old one forks as before.
        """
        async with self._renewing:
            if not is_forced:
                await self._starter.check_untried()
            recent = () if is_forced else self._starter.recent_names()
            await self._begin(self._renew(recent, try_out))

    @property
    def previous_revision(self) -> str | None:
        """The revision of the code before the last renewal with other code; None if that code is not kept."""
        return None if self._previous is None else self._previous.revision

    async def bring_back(self) -> None:
        """Has the zygote with the previous code fork again, and keeps the present one in its place.

        Raises:
            NoPreviousCode: there is none.
        """
        async with self._renewing:
            if self._previous is None:
                raise NoPreviousCode
            self._code_watch.pass_over(self._revision)
            self._put(self._previous)

    async def aclose(self) -> None:
        """Ends the zygotes and with them every worker that is left; returns when all are dead."""
        self._is_closing = True
        await self._background.stop(self._watch)
        for start in self._starts:
            start.cancel()
        await asyncio.gather(*self._starts, return_exceptions=True)
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
        """Returns the zygote that forks. Without one, all that ask share the start of the next. Raises SpawnFailed."""
        if self._zygote is None:
            if self._start is None:
                self._start = self._begin(self._start_zygote())
            await asyncio.shield(self._start)
        if self._zygote is None:
            raise SpawnFailed("the zygote has died")
        return self._zygote

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Runs a start or a renewal, at most for as long as this spawner. Raises SpawnFailed."""
        if self._is_closing:
            work.close()
            raise SpawnFailed("no worker is started any more")
        start = asyncio.create_task(work)
        self._starts.add(start)
        start.add_done_callback(self._start_ended)
        return start

    def _start_ended(self, start: asyncio.Task[None]) -> None:
        self._starts.discard(start)
        if self._start is start:
            self._start = None
        if not start.cancelled():
            start.exception()  # whoever waits for it is told; nobody may be waiting

    async def _start_zygote(self) -> None:
        """Starts a zygote while there is none. No module that a program named recently keeps it from that."""
        recent, is_first = self._starter.recent_names(), self._revision is None
        try:
            zygote, preloaded = await self._starter.start(recent, is_first=is_first)
        except SpawnFailed as error:
            if not recent:
                raise self._starter.explained(error, recent, is_first=is_first) from None
            _log.warning("workers start without the modules that were used lately", reason=str(error), modules=recent)
            self._starter.forget_recent()
            zygote, preloaded = await self._starter.start((), is_first=is_first)
        if self._zygote is not None:  # a renewal has put another one, and may have read newer code
            zygote.discard()
            return
        if is_first:
            self._starter.do_without_broken(preloaded)
            self._starter.refuse_failures(zygote, preloaded)
        elif (reasons := import_failures(preloaded)) is not None:
            _log.error("workers start without modules that cannot be imported", reasons=reasons)
        if self._revision not in (None, zygote.revision):
            _log.warning(
                "the zygote that died had other code than the one that follows it",
                before=self._revision,
                now=zygote.revision,
            )
        self._code_watch.workers_have(zygote.revision)
        self._put(zygote)

    async def _renew(self, recent: Sequence[str], try_out: TryOut | None) -> None:
        """Puts a zygote with the code on disk in the place of the present one, unless something is wrong with it."""
        with self._starter.unchanged_by_failure(lambda: self._zygote is not None):
            try:
                zygote, preloaded = await self._starter.start(recent)
            except SpawnFailed as error:
                raise self._starter.explained(error, recent, is_first=self._revision is None) from None
            try:
                self._starter.refuse_failures(zygote, preloaded)
                if try_out is not None and self._zygote is not None:
                    await try_out(self._loads(zygote), self._loads(self._zygote))
            except BaseException:
                zygote.discard()
                raise
            if zygote not in self._zygotes:
                raise SpawnFailed("the zygote with the new code has died")
        self._code_watch.workers_have(zygote.revision)
        self._put(zygote)

    def _loads(self, zygote: ZygoteLink) -> Loads:
        """Loads definitions with the code of `zygote`. A failure there says nothing of this spawner."""
        return Checks(partial(self._worker_of, zygote, Health()), self._code.load_timeout_s).load

    def _put(self, zygote: ZygoteLink) -> None:
        """Makes `zygote` the one that forks. The one before it is kept if it has other code."""
        old, self._zygote = self._zygote, zygote
        self._revision, self._commit = zygote.revision, zygote.commit
        self._starter.failure = None
        if self._previous is zygote:
            self._previous = None
        if old is not None and self._keeps_previous and old.revision != zygote.revision:
            old, self._previous = self._previous, old
        if old is not None:
            old.retire()

    def _ended(self, zygote: ZygoteLink) -> None:
        """Forgets a zygote that was lost, and closes one that has retired and has no worker left."""
        if self._zygote is zygote:
            self._zygote = None
        if self._previous is zygote:
            self._previous = None
        if zygote in self._zygotes:
            self._zygotes.discard(zygote)
            self._tasks.start(zygote.aclose())

    async def _ping_zygotes(self) -> None:
        """Finds zygotes that do not answer, and new code on disk if somebody wants to know."""
        while True:
            await asyncio.sleep(PING_INTERVAL_S)
            asks_revision = self._code_watch.listener is not None
            for zygote in list(self._zygotes):
                zygote.ping(asks_revision=asks_revision and zygote is self._zygote)
            self._code_watch.look(None if self._zygote is None else self._zygote.revision_on_disk, self._revision)
