"""The code that a pool's workers load: modules of programs, and modules that the zygote imports ahead of them."""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pools.errors import SpawnFailed
from pools.process.interpreter import OWN, Interpreter
from poolshift.worker.definitions import Definition
from poolshift.worker.loading import DSPY_PROGRAMS, is_allowed

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
    is_shared: bool = False
    """True if a worker runs many calls at once."""

    def check_folder(self) -> None:
        """Raises SpawnFailed if the folder of the programs is not there."""
        if self.programs_dir is not None and not self.programs_dir.is_dir():
            raise SpawnFailed(f"the folder of the programs, {self.programs_dir}, is not there")


@dataclass(frozen=True, slots=True)
class Seeds:
    """The definitions whose modules a pool's first zygote imports ahead, the most used first."""

    definitions: tuple[Definition, ...] = ()
    limit_s: float = 0.0
    """The longest time that these imports may hold the pool, in seconds."""


NO_SEEDS: Final = Seeds()


class RecentModules:
    """The modules that programs were loaded from, the newest last."""

    def __init__(self, seeds: Iterable[Definition] = (), allowed_modules: tuple[str, ...] = ()) -> None:
        """Begins with the modules of `seeds`, the most used first, as far as programs may come from them."""
        self._modules: OrderedDict[str, None] = OrderedDict()
        named = dict.fromkeys(map(_module_of, seeds))
        allowed = [one for one in named if one == DSPY_PROGRAMS or is_allowed(one, allowed_modules)]
        for module in reversed(allowed[:MAX_RECENT]):
            self._modules[module] = None

    def loaded(self, definition: Definition) -> None:
        """Notes that a worker has loaded `definition`."""
        module = _module_of(definition)
        self._modules[module] = None
        self._modules.move_to_end(module)
        if len(self._modules) > MAX_RECENT:
            self._modules.popitem(last=False)

    def forget(self, modules: Iterable[str]) -> None:
        """Forgets modules that cannot be imported."""
        for module in modules:
            self._modules.pop(module, None)

    def clear(self) -> None:
        """Forgets them: a zygote that imported them did not get ready."""
        self._modules.clear()

    def names(self) -> tuple[str, ...]:
        """The modules, in the order in which programs named them last."""
        return tuple(self._modules)


def _module_of(definition: Definition) -> str:
    return (definition.entrypoint or DSPY_PROGRAMS).partition(":")[0]
