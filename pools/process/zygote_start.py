"""Starts the zygotes of one pool, one at a time: what each imports, how long it may take, and what it must not lack."""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import structlog

from pools.errors import SpawnFailed
from pools.process.host import Imports, ZygoteHost
from pools.process.import_check import InvalidProgramModules
from pools.process.program_code import ProgramCode, RecentModules
from pools.process.zygote_link import ZygoteLink
from poolshift.worker.describe import Description
from poolshift.worker.loading import DSPY_PROGRAMS, DSPY_REQUIREMENT
from poolshift.worker.notices import Preloaded

START_TIMEOUT_S = 60.0
"""For a worker to say that it is ready, and for a zygote beside the time that its modules have to load."""

_log = structlog.stdlib.get_logger("poolshift.spawner")


class ZygoteStarter:
    """Starts zygotes on one machine, and knows the interpreter as the newest of them found it."""

    def __init__(
        self,
        code: ProgramCode,
        host: ZygoteHost,
        recent: RecentModules,
        seeds_limit_s: float,
        user: tuple[int, int] | None,
        zygotes: set[ZygoteLink],
        on_end: Callable[[ZygoteLink], None],
    ) -> None:
        """Adds each zygote to `zygotes`; `on_end` is called when it is of no more use.

        `seeds_limit_s` is the longest time, in seconds, for which modules that nobody asked for hold the first one.
        """
        self.failure: str | None = None
        """The reason for which no zygote can serve that only the operator can repair: an interpreter that cannot run
        workers, a folder that is not there, a module of `PRELOAD` that cannot be imported. None once one serves."""
        self._code = code
        self._host = host
        self._recent = recent
        self._seeds_limit_s = seeds_limit_s
        self._user = user
        self._zygotes = zygotes
        self._on_end = on_end
        self._describing = asyncio.Lock()
        self._description: Description | None = None

    def __repr__(self) -> str:
        return f"<ZygoteStarter on {self._host!r} failure={self.failure!r}>"

    async def describe(self) -> Description:
        """Tells the Python of the workers and the packages that they find.

        Raises:
            SpawnFailed: the interpreter cannot run workers, and why.
        """
        async with self._describing:
            if self._description is None and self.failure is not None:
                raise SpawnFailed(self.failure)
            return await self._describe_again() if self._description is None else self._description

    async def _describe_again(self) -> Description:
        self._description = await self._host.describe()
        return self._description

    def recent_names(self) -> tuple[str, ...]:
        """The modules that programs named recently, for a zygote to import.

        A zygote has the service's own rights: with a user for the workers, no program's code runs in it.
        """
        return self._recent.names() if self._user is None else ()

    def forget_recent(self) -> None:
        """Forgets these modules: one of them may hang, or end its process."""
        self._recent.clear()

    async def check_untried(self) -> None:
        """Tries the allowed modules that the next zygote does not import. Raises SpawnFailed."""
        tried = (*self._code.preload, *self.recent_names())
        untried = [
            name for name in self._code.allowed_modules if not any(f"{one}.".startswith(f"{name}.") for one in tried)
        ]
        if untried:
            try:
                await self._host.check_modules(untried, self._user)
            except InvalidProgramModules as error:
                raise SpawnFailed(str(error)) from None

    async def start(self, recent: Sequence[str], *, is_first: bool = False) -> tuple[ZygoteLink, Preloaded]:
        """Starts a zygote, the pool's first one or another, and waits until it has imported all modules.

        Raises SpawnFailed.
        """
        try:
            imports = await self._imports(recent)
            end = await self._host.start_zygote(imports)
            zygote = ZygoteLink(end, self._on_end, self._code.load_timeout_s, self._recent.loaded)
        except SpawnFailed as error:
            self.failure = str(error)
            raise
        except OSError as error:
            raise SpawnFailed(f"the zygote could not be started: {error}") from error
        self._zygotes.add(zygote)
        limit_s = self._limit_of_start(recent, is_first=is_first)
        try:
            async with asyncio.timeout(limit_s):
                return zygote, await zygote.preloaded
        except TimeoutError:
            zygote.discard()
            raise SpawnFailed(f"the zygote did not get ready within {limit_s:g} s") from None

    def _limit_of_start(self, recent: Sequence[str], *, is_first: bool) -> float:
        """The longest time that a zygote's start takes. Modules that nobody asked for hold the first one less long."""
        if is_first and recent and self._seeds_limit_s and not self._code.preload:
            return self._seeds_limit_s
        return START_TIMEOUT_S + self._code.load_timeout_s

    def explained(self, error: SpawnFailed, recent: Sequence[str], *, is_first: bool) -> SpawnFailed:
        """Names the modules that may have kept a zygote from its start, if there are any."""
        modules = [*self._code.preload, *recent]
        if not modules:
            return error
        fault = f"{error} (it imports {', '.join(modules)})"
        if is_first:
            self.failure = f"PRELOAD: {fault}"
        return SpawnFailed(fault)

    def do_without_broken(self, preloaded: Preloaded) -> None:
        """Lets the first workers start without modules that were used lately and cannot be imported any more."""
        if preloaded.broken:
            _log.warning("workers start without modules that were used lately", reasons=preloaded.broken)
            self._recent.forget(preloaded.broken)
            preloaded.broken.clear()

    def refuse_failures(self, zygote: ZygoteLink, preloaded: Preloaded) -> None:
        """Refuses a zygote that cannot import a module. Raises SpawnFailed, which says which module, and why."""
        reasons = import_failures(preloaded)
        if reasons is None:
            return
        zygote.discard()
        if preloaded.failures:
            reasons = self.failure = f"PRELOAD: {reasons}"
        raise SpawnFailed(reasons)

    @contextmanager
    def unchanged_by_failure(self, one_serves: Callable[[], bool]) -> Iterator[None]:
        """Has a start that fails while another zygote serves change nothing of what is known here."""
        known = self.failure, self._description
        try:
            yield
        except BaseException:
            if one_serves():
                self.failure, self._description = known
            raise

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
        return Imports(
            code.allowed_modules, own_preload, code.preload, tuple(recent), code.load_timeout_s, code.is_shared
        )


def import_failures(preloaded: Preloaded) -> str | None:
    """Tells which modules a zygote cannot import, and why; None if it has imported all."""
    failures: Mapping[str, str] = preloaded.failures | preloaded.broken
    told = [f"{module!r} cannot be imported: {reason}" for module, reason in failures.items()]
    return "; ".join(told) or None
