"""Loads the modules of programs from their source files, and never from bytecode that an earlier import has cached.

Python takes cached bytecode for current if the source has the same size and the same time of change in whole seconds.
The second of two quick changes would not run, or files that a deployment gives one fixed time. A revision of the code
(`poolshift.worker.revision`) has to name what runs. Installed packages are large and keep their cached bytecode.
"""

import os
import site
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from functools import cache, partial
from importlib.machinery import (
    BYTECODE_SUFFIXES,
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    SourceFileLoader,
    SourcelessFileLoader,
)
from pathlib import Path
from typing import Any

_OWN_PACKAGE = __name__.partition(".")[0]


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
        package = self.name.partition(".")[0]
        if package == _OWN_PACKAGE or (package not in self._programs and _is_of_an_installer(path, self.name)):
            return super().path_stats(path)
        raise OSError("a program's module has no cached bytecode")


def install(allowed_modules: Iterable[str]) -> None:
    """Makes this process import what is not installed from its source."""
    programs = frozenset(module.partition(".")[0] for module in allowed_modules)
    find = FileFinder.path_hook(
        (ExtensionFileLoader, EXTENSION_SUFFIXES),
        (partial(ProgramLoader, programs), SOURCE_SUFFIXES),  # type: ignore[arg-type]  # called as the class would be
        (SourcelessFileLoader, BYTECODE_SUFFIXES),
    )
    own_folders = tuple(f"{folder}{os.sep}" for folder in interpreter_folders())

    def hook(folder: str) -> Any:
        if f"{folder}{os.sep}".startswith(own_folders):
            raise ImportError("the interpreter's own", path=folder)
        return find(folder)

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
