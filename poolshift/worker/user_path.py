"""Sets up the path on which a worker finds a user's modules.

Entries of `PYTHONPATH` come first, as Python puts them; then the standard library, the folder in which the service was
started, and what is installed. The examples that come with the service are found last, and nothing else of its own.
"""

import site
import sys
from collections.abc import Collection, Iterable, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

from poolshift.worker import program_source

EXAMPLES = "examples"
"""The package of the service's that a program may come from."""


class OwnFolderFinder:
    """Finds the examples in the service's folder, unless a user has a module of that name.

    In a checkout that is also the current folder, a user's modules may lie beside the service's packages. The finder
    finds them too: files, and those packages that programs may come from.
    """

    def __init__(self, own_root: Path, allowed_modules: Iterable[str], *, is_current: bool) -> None:
        self._own_root = own_root
        self._packages = {EXAMPLES}
        self._is_current = is_current
        if is_current:
            self._packages.update(module.partition(".")[0] for module in allowed_modules)

    def find_spec(
        self, fullname: str, path: "Sequence[str] | None" = None, target: "ModuleType | None" = None
    ) -> "ModuleSpec | None":
        """Called by the import system once every other finder has found nothing."""
        is_file = self._is_current and not (self._own_root / fullname).is_dir()
        if path is not None or not (is_file or fullname in self._packages):
            return None
        return PathFinder.find_spec(fullname, [str(self._own_root)], target)


def install(own_root: Path, allowed_modules: Collection[str]) -> None:
    """Adds the current folder and the examples to what this process can import, and has programs' source loaded."""
    program_source.install(allowed_modules)
    current = Path.cwd()
    is_current = current == own_root
    if not is_current:
        sys.path.insert(_first_installed(), str(current))
    sys.meta_path.append(OwnFolderFinder(own_root, allowed_modules, is_current=is_current))


def _first_installed() -> int:
    """The position in `sys.path` of what is installed: a user's module wins over it, and not over Python's own."""
    installed = {*site.getsitepackages(), site.getusersitepackages()}
    return next((index for index, entry in enumerate(sys.path) if entry in installed), len(sys.path))
