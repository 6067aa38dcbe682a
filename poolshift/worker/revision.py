"""The revision of the programs' code on disk: a digest over the source files that a worker would import."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path

from poolshift.worker.git_commit import commit_of
from poolshift.worker.program_source import interpreter_folders

MAX_FILES = 2000
"""With more files in its folder, a module stands for itself: its own file, or the files of its package."""
LENGTH = 12
"""Hexadecimal digits of a revision."""

_SKIPPED = frozenset({"__pycache__", "node_modules", "site-packages", "dist-packages"})


class CodeRevision:
    """The source files of the allowed modules and of the folders that these lie in.

    The folders are read too, since a program's own helpers lie there. Installed packages and the service's own folder
    stand for the allowed modules in them alone.
    """

    def __init__(self, allowed_modules: Iterable[str], own_root: Path) -> None:
        """Reads the revision `at_start`, the `sources` that it is of, and their `commit`."""
        self._modules = sorted({module.partition(".")[0] for module in allowed_modules})
        self._no_folders = {own_root.resolve(), *interpreter_folders()}
        self._digests: dict[Path, tuple[tuple[int, int, int], bytes]] = {}
        """By file: its inode, size and time of change when it was read, and the digest of its content."""
        self.sources: dict[str, bytes] = {}
        """The content of each file at the start, by its path."""
        self.at_start = self._read(self.sources)
        self.commit = commit_of(self.sources)
        """The git commit of the sources, if they are of one; it ends with `-dirty` if they differ from it."""

    def now(self) -> str:
        """The revision at this moment. A file that cannot be read counts as absent."""
        return self._read({})

    def _read(self, contents: dict[str, bytes]) -> str:
        """Reads the revision, and puts the content of the files that have changed since they were read last by."""
        whole = hashlib.sha256()
        for folder, file in sorted(self._files()):
            digest = self._digest(file, contents)
            if digest is not None:
                whole.update(os.fsencode(file.relative_to(folder)) + b"\0" + digest)
        return whole.hexdigest()[:LENGTH]

    def _digest(self, file: Path, contents: dict[str, bytes]) -> bytes | None:
        try:
            stat = file.stat()
            seen = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
            known = self._digests.get(file)
            if known is None or known[0] != seen:
                content = contents[str(file.absolute())] = file.read_bytes()
                known = self._digests[file] = (seen, hashlib.sha256(content).digest())
        except OSError:
            return None
        return known[1]

    def _files(self) -> set[tuple[Path, Path]]:
        """The source files, each with the folder that its name is relative to."""
        found: set[tuple[Path, Path]] = set()
        for name in self._modules:
            for location in _locations(name):
                folder = location.parent
                own = [location] if location.is_file() else _sources(location)
                found.update((folder, file) for file in own)
                if folder.resolve() not in self._no_folders:
                    beside = _at_most(_sources(folder), MAX_FILES)
                    found.update((folder, file) for file in beside)
        return found


def _locations(name: str) -> list[Path]:
    """The file of a module, or the folders of a package; none if it cannot be found. Nothing is imported."""
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):
        return []
    if spec is None:
        return []
    if spec.submodule_search_locations is not None:
        return [Path(location) for location in spec.submodule_search_locations]
    return [Path(spec.origin)] if spec.has_location and spec.origin is not None else []


def _sources(folder: Path) -> Iterator[Path]:
    for current, folders, files in os.walk(folder):
        folders[:] = sorted(one for one in folders if _holds_programs(Path(current, one)))
        yield from (Path(current, file) for file in sorted(files) if file.endswith(".py"))


def _holds_programs(folder: Path) -> bool:
    """Tells if a folder may have a program's modules; a virtual environment has not."""
    is_hidden = folder.name.startswith(".")
    return not is_hidden and folder.name not in _SKIPPED and not (folder / "pyvenv.cfg").exists()


def _at_most(files: Iterator[Path], count: int) -> list[Path]:
    """The files, or none if there are more than `count`."""
    found: list[Path] = []
    for file in files:
        found.append(file)
        if len(found) > count:
            return []
    return found
