"""Loads the modules of programs from their source, and never from bytecode that an earlier import has cached.

In a zygote and its workers the source is that of the zygote's start (`keep`), whatever is on disk by then: a worker may
import a program long after, and only a reload brings a pool new code.

Python takes cached bytecode for current if the source has the same size and the same time of change in whole seconds.
The second of two quick changes would not run, or files that a deployment gives one fixed time. A revision of the code
(`poolshift.worker.revision`) has to name what runs. Installed packages are large and keep their cached bytecode.
"""

import os
import site
import sys
import sysconfig
from collections.abc import Callable, Iterable, Mapping
from functools import cache, partial
from importlib.machinery import (
    BYTECODE_SUFFIXES,
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    ModuleSpec,
    SourceFileLoader,
    SourcelessFileLoader,
)
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

_OWN_PACKAGE = __name__.partition(".")[0]
_kept: dict[str, bytes] = {}
"""The content of source files, by their absolute paths."""
_kept_folders: set[str] = set()
"""The folders that they lie in."""


class ProgramLoader(SourceFileLoader):
    """Loads a source file that lies outside of the interpreter's own folders."""

    def __init__(self, programs: frozenset[str], fullname: str, path: str) -> None:
        """`programs` are the packages and modules that programs may come from, wherever they lie."""
        super().__init__(fullname, path)
        self._programs = programs

    def path_stats(self, path: str) -> Mapping[str, Any]:
        """Tells the import system by which facts cached bytecode is current.

        Raises:
            OSError: it is not to use any, and to write none.
        """
        if self._is_installed(path):
            return super().path_stats(path)
        raise OSError("a program's module has no cached bytecode")

    def get_data(self, path: str) -> bytes:
        """Reads a file, or what is kept of it; never the latter for what has cached bytecode, which would be stale."""
        kept = _kept.get(str(Path(path).absolute()))
        return super().get_data(path) if kept is None or self._is_installed(path) else kept

    def _is_installed(self, path: str) -> bool:
        package = self.name.partition(".")[0]
        return package == _OWN_PACKAGE or (package not in self._programs and _is_of_an_installer(path, self.name))


class ProgramFinder(FileFinder):
    """Finds modules in a folder that is none of the interpreter's, those among them whose file has gone since."""

    new_loader: Callable[[str, str], ProgramLoader]

    def find_spec(self, fullname: str, target: ModuleType | None = None) -> ModuleSpec | None:
        """As its base does, but that a source which is kept comes before one that is not."""
        found = super().find_spec(fullname, target)
        if found is not None and not isinstance(found.loader, ProgramLoader | None):
            return found
        package = Path(self.path, fullname.rpartition(".")[2])
        for file, folders in ((package / "__init__.py", [str(package)]), (Path(f"{package}.py"), None)):
            if str(file.absolute()) in _kept:
                loader = self.new_loader(fullname, str(file))
                return spec_from_file_location(fullname, file, loader=loader, submodule_search_locations=folders)
        return found


def keep(sources: Mapping[str, bytes]) -> None:
    """Has this process load these files, by their absolute paths, with this content from now on."""
    _kept.update(sources)
    for path in sources:
        _kept_folders.add(str(Path(path).parent))
    sys.path_importer_cache.clear()


def install(allowed_modules: Iterable[str]) -> None:
    """Makes this process import what is not installed from its source."""
    programs = frozenset(module.partition(".")[0] for module in allowed_modules)
    new_loader = partial(ProgramLoader, programs)
    details: tuple[Any, ...] = (
        (ExtensionFileLoader, EXTENSION_SUFFIXES),
        (new_loader, SOURCE_SUFFIXES),
        (SourcelessFileLoader, BYTECODE_SUFFIXES),
    )
    own_folders = tuple(f"{folder}{os.sep}" for folder in interpreter_folders())

    def hook(folder: str) -> Any:
        if f"{folder}{os.sep}".startswith(own_folders):
            raise ImportError("the interpreter's own", path=folder)
        if not Path(folder).is_dir() and str(Path(folder).absolute()) not in _kept_folders:
            raise ImportError("only directories are supported", path=folder)
        finder = ProgramFinder(folder, *details)
        finder.new_loader = new_loader
        return finder

    sys.path_hooks.insert(0, hook)
    sys.path_importer_cache.clear()


def interpreter_folders() -> set[Path]:
    """The standard library's folders, and those of packages that are installed for this interpreter."""
    paths = sysconfig.get_paths()
    named = {paths["stdlib"], paths["platstdlib"], paths["purelib"], paths["platlib"]}
    named.update((*site.getsitepackages(), site.getusersitepackages()))
    return {Path(folder) for folder in named} | {Path(folder).resolve() for folder in named}


def _is_of_an_installer(path: str, fullname: str) -> bool:
    """Tells if a module lies where an installer has put packages, as `pip install --target` does."""
    depth = fullname.count(".") + (Path(path).stem == "__init__")
    parents = Path(path).parents
    return depth < len(parents) and _has_metadata(parents[depth])


@cache
def _has_metadata(folder: Path) -> bool:
    try:
        return any(file.suffix == ".dist-info" for file in folder.iterdir())
    except OSError:
        return False
