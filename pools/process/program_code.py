"""The code that a pool's workers load: modules of programs, and modules that the zygote imports ahead of them."""

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pools.errors import SpawnFailed
from pools.process.interpreter import OWN, Interpreter
from poolshift.worker.definitions import Definition
from poolshift.worker.loading import DSPY_PROGRAMS

MAX_RECENT: Final = 32
"""Modules that the next zygote imports because programs named them recently."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramCode:
    """The modules of a pool's programs, and the Python that imports them."""

    interpreter: Interpreter = OWN
    programs_dir: Path | None = None
    """The folder that is first on the workers' path, if the pool has one of its own."""
    allowed_modules: tuple[str, ...]
    """The modules, or packages, that an entrypoint may name."""
    own_root: Path
    """The service's own folder: a worker finds the examples there, and nothing else."""
    own_preload: tuple[str, ...] = ()
    """The service's modules that every zygote imports."""
    preload: tuple[str, ...] = ()
    """The operator's modules that every zygote imports, if they can be imported."""
    load_timeout_s: float = 60.0
    """The time that a program has to load, in seconds."""

    def check_folder(self) -> None:
        """Raises SpawnFailed if the folder of the programs is not there."""
        if self.programs_dir is not None and not self.programs_dir.is_dir():
            raise SpawnFailed(f"the folder of the programs, {self.programs_dir}, is not there")


class RecentModules:
    """The modules that programs were loaded from, the newest last."""

    def __init__(self) -> None:
        self._modules: OrderedDict[str, None] = OrderedDict()

    def loaded(self, definition: Definition) -> None:
        """Notes that a worker has loaded `definition`."""
        module = (definition.entrypoint or DSPY_PROGRAMS).partition(":")[0]
        self._modules[module] = None
        self._modules.move_to_end(module)
        if len(self._modules) > MAX_RECENT:
            self._modules.popitem(last=False)

    def clear(self) -> None:
        """Forgets them: a zygote that imported them did not get ready."""
        self._modules.clear()

    def names(self) -> tuple[str, ...]:
        """The modules, in the order in which programs named them last."""
        return tuple(self._modules)
