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
from pools.process.host import Imports, LocalHost, ZygoteHost
from pools.process.import_check import InvalidProgramModules
from pools.process.interface import Worker
from pools.process.process import WorkerProcess
from pools.process.program_code import ProgramCode, RecentModules
from pools.process.stats import ProcessStats
from pools.process.zygote_link import ZygoteLink
from poolshift.worker.definitions import Definition, Signature
from poolshift.worker.describe import Description
from poolshift.worker.loading import DSPY_PROGRAMS, DSPY_REQUIREMENT
from poolshift.worker.notices import Preloaded

START_TIMEOUT_S = 60.0
"""For a worker to say that it is ready, and for a zygote beside the time that its modules have to load."""
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
        self._host: ZygoteHost = host or LocalHost(code, dict(environment))
        self._describing = asyncio.Lock()
        self._description: Description | None = None
        """The interpreter, as the newest zygote found it."""
        self._user = user
        self.start_failure: str | None = None
        """The reason for which no zygote can serve that only the operator can repair: an interpreter that cannot run
        workers, a folder that is not there, a module of `PRELOAD` that cannot be imported. None once one serves."""
        self._recent = recent or RecentModules()
        self._on_new_code: Callable[[], None] | None = None
        self._revision_on_disk: str | None = None
        self._revision_told: str | None = None
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
        async with self._describing:
            if self._description is None and self.start_failure is not None:
                raise SpawnFailed(self.start_failure)
            return await self._describe_again() if self._description is None else self._description

    async def _describe_again(self) -> Description:
        self._description = await self._host.describe()
        return self._description

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
        self._on_new_code = on_new_code

    async def renew(self) -> None:
        """Replaces the zygote, so that workers which are started from now on run the code that is on disk now.

        Workers of the old zygote live on, and it lives for as long as they do.

        Raises:
            SpawnFailed: the new zygote did not get ready, or cannot import a module of `PRELOAD`, or one that programs
                named recently; or another of the allowed modules cannot be imported. The old one forks as before.
        """
        await self._check_untried()
        if self._start is not None and self._has_begun:
            await asyncio.wait([self._start])  # it may have read the code before
        await self._next_zygote()

    async def _check_untried(self) -> None:
        """Tries the allowed modules that the next zygote does not import. Raises SpawnFailed."""
        tried = (*self._code.preload, *self._recent_names())
        untried = [
            name for name in self._code.allowed_modules if not any(f"{one}.".startswith(f"{name}.") for one in tried)
        ]
        if untried:
            try:
                await self._host.check_modules(untried, self._user)
            except InvalidProgramModules as error:
                raise SpawnFailed(str(error)) from None

    def _recent_names(self) -> tuple[str, ...]:
        """The modules that programs named recently, for a zygote to import.

        A zygote has the service's own rights: with a user for the workers, no program's code runs in it.
        """
        return self._recent.names() if self._user is None else ()

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
        recent = self._recent_names()
        try:
            zygote, preloaded = await self._ready_zygote(recent)
        except SpawnFailed as error:
            if not recent or self._zygote is not None:
                raise self._explained(error, recent) from None
            self._recent.clear()  # one of them may hang, or end its process
            zygote, preloaded = await self._ready_zygote(())
        self._see_to_failures(zygote, preloaded)
        if self._zygote is None and self._revision not in (None, preloaded.revision):
            _log.warning(
                "the zygote that died had other code than the one that follows it",
                before=self._revision,
                now=preloaded.revision,
            )
        self._revision = self._revision_on_disk = preloaded.revision
        self._commit = preloaded.commit
        self.start_failure = None
        old, self._zygote = self._zygote, zygote
        if old is not None:
            old.retire()

    async def _ready_zygote(self, recent: Sequence[str]) -> tuple[ZygoteLink, Preloaded]:
        """Starts a zygote and waits until it has imported all modules. Raises SpawnFailed."""
        try:
            imports = await self._imports(recent)
            end = await self._host.start_zygote(imports)
            zygote = ZygoteLink(end, self._ended, self._code.load_timeout_s, self._recent.loaded)
        except SpawnFailed as error:
            self.start_failure = str(error)
            raise
        except OSError as error:
            raise SpawnFailed(f"the zygote could not be started: {error}") from error
        self._zygotes.add(zygote)
        limit_s = START_TIMEOUT_S + self._code.load_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                return zygote, await zygote.preloaded
        except TimeoutError:
            zygote.discard()
            raise SpawnFailed(f"the zygote did not get ready within {limit_s:g} s") from None

    def _explained(self, error: SpawnFailed, recent: Sequence[str]) -> SpawnFailed:
        """Names the modules that may have kept a zygote from its start, if there are any."""
        modules = [*self._code.preload, *recent]
        if not modules:
            return error
        fault = f"{error} (it imports {', '.join(modules)})"
        if self._revision is None:
            self.start_failure = f"PRELOAD: {fault}"
        return SpawnFailed(fault)

    def _see_to_failures(self, zygote: ZygoteLink, preloaded: Preloaded) -> None:
        """Refuses a zygote that cannot import a module, unless the one before has died and workers must start.

        Raises:
            SpawnFailed: says which module, and why.
        """
        failures = preloaded.failures | preloaded.broken
        if not failures:
            return
        reasons = "; ".join(f"{module!r} cannot be imported: {reason}" for module, reason in failures.items())
        if self._revision is not None and self._zygote is None:
            _log.error("workers start without modules that cannot be imported", reasons=reasons)
            return
        zygote.discard()
        if preloaded.failures:
            reasons = self.start_failure = f"PRELOAD: {reasons}"
        raise SpawnFailed(reasons)

    async def _imports(self, recent: Sequence[str]) -> Imports:
        """The modules that the next zygote imports.

        An interpreter of the user's is asked first: its answer says what it lacks. Raises SpawnFailed.
        """
        code, own_preload = self._code, self._code.own_preload
        code.check_folder()
        self._description = None
        if not code.interpreter.is_own:
            async with self._describing:
                description = await self._describe_again()
            if DSPY_PROGRAMS in own_preload and "dspy" not in description.packages:
                own_preload = tuple(module for module in own_preload if module != DSPY_PROGRAMS)
                _log.warning(
                    "the workers' Python has no DSPy: its types of programs fail there",
                    to_install=f"{description.executable} -m pip install '{DSPY_REQUIREMENT}'",
                )
        return Imports(code.allowed_modules, own_preload, code.preload, tuple(recent), code.load_timeout_s)

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
