"""The machine that a pool's zygotes run on: this one, or a node of a cluster (`pools.ray`)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from pools.errors import SpawnFailed
from pools.process.import_check import check_imports
from pools.process.local_zygote import LocalZygote
from pools.process.program_code import ProgramCode
from pools.process.zygote_link import ZygoteEnd
from poolshift.worker import linux
from poolshift.worker.describe import Description
from poolshift.worker.notices import CALLS_OF_SHARED


@dataclass(frozen=True, slots=True)
class Imports:
    """The modules that a zygote imports, and the kind of its workers, as its command line has it.

    See `poolshift.worker.zygote`.
    """

    allowed_modules: tuple[str, ...]
    own_preload: tuple[str, ...]
    preload: tuple[str, ...]
    recent: tuple[str, ...]
    load_timeout_s: float
    is_shared: bool
    """True if a worker runs many calls at once."""

    def arguments(self) -> list[str]:
        """The first arguments of a zygote."""
        modules = (self.allowed_modules, self.own_preload, self.preload, self.recent)
        calls = CALLS_OF_SHARED if self.is_shared else "one"
        return [*(",".join(names) for names in modules), str(self.load_timeout_s), calls]


class ZygoteHost(Protocol):
    """Starts zygotes on one machine."""

    async def start_zygote(self, imports: Imports) -> ZygoteEnd:
        """Starts a zygote.

        Raises:
            OSError: no process could be started.
            SpawnFailed: there is no such interpreter.
        """
        ...

    async def check_modules(self, modules: Sequence[str], user: tuple[int, int] | None) -> None:
        """Imports modules that programs may come from, if this machine can try it without a worker.

        Raises:
            InvalidProgramModules: names each module that cannot be imported, and why.
            SpawnFailed: no process could be started for that.
        """
        ...

    async def describe(self) -> Description:
        """Asks the workers' interpreter what it is.

        Raises:
            SpawnFailed: it cannot run a worker, and why.
        """
        ...


class LocalHost:
    """Starts zygotes on this machine (see `ZygoteHost`)."""

    def __init__(self, code: ProgramCode, environment: Mapping[str, str]) -> None:
        self._code = code
        self._environment = environment

    def __repr__(self) -> str:
        return f"<LocalHost {self._code.interpreter}>"

    async def start_zygote(self, imports: Imports) -> LocalZygote:
        command = self._code.interpreter.command(
            "poolshift.worker.zygote",
            *imports.arguments(),
            str(linux.OPEN_FILES_AT_START),
            str(self._code.own_root),
        )
        return LocalZygote.start(command, self._environment)

    async def check_modules(self, modules: Sequence[str], user: tuple[int, int] | None) -> None:
        code = self._code
        try:
            await check_imports(
                modules, self._environment, interpreter=code.interpreter, own_root=code.own_root, user=user
            )
        except OSError as error:
            raise SpawnFailed(f"no process could be started to import PROGRAM_MODULES: {error}") from error

    async def describe(self) -> Description:
        return await self._code.interpreter.describe(self._environment)
