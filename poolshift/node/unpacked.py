"""The code that a service has brought to a node, unpacked in a folder of its own."""

import fcntl
import hashlib
import io
import os
import shutil
import sys
import tempfile
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import which

from poolshift.launcher import start as launcher
from poolshift.node.messages import Code

OWN = "own"
"""The folder of the archive with what belongs to the service: the examples."""
PROGRAMS = "programs"
"""The folder of the archive with the user's programs, if the service has brought any."""
_NOT_FOR_PROGRAMS = ("RAY_",)
_PREFIX = "poolshift-node-"


class Unpacked:
    """Keeps the archives that are in use unpacked, each once, and the newest one for its next use.

    It may be used by several threads. The kernel gives up its lock when the process dies: the next one that is made on
    the machine removes what a killed process has left.
    """

    def __init__(self) -> None:
        _remove_abandoned()
        self._folder, self._held = _made()
        self._lock = threading.Lock()
        self._uses: dict[Path, int] = {}

    def __repr__(self) -> str:
        return f"<Unpacked {self._folder} archives={len(self._uses)}>"

    @contextmanager
    def using(self, code: Code) -> "Iterator[Path]":
        """The folder with the content of the archive, for as long as the block lasts.

        Raises:
            OSError, zipfile.BadZipFile: it cannot be unpacked.
        """
        root = self._folder / hashlib.sha256(code.archive).hexdigest()[:16]
        with self._lock:
            if root not in self._uses:
                self._unpack(code.archive, root)
            self._uses[root] = self._uses.get(root, 0) + 1
        try:
            yield root
        finally:
            with self._lock:
                self._uses[root] -= 1

    def _unpack(self, archive: bytes, root: Path) -> None:
        """Unpacks beside `root`, which is there as a whole or not at all, and removes what nobody uses any more."""
        for unused in [one for one, uses in self._uses.items() if not uses]:
            del self._uses[unused]
            shutil.rmtree(unused, ignore_errors=True)
        part = root.with_suffix(".part")
        try:
            with zipfile.ZipFile(io.BytesIO(archive)) as packed:
                packed.extractall(part)
            (part / OWN).mkdir(exist_ok=True)
            part.rename(root)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise

    def close(self) -> None:
        """Removes all folders."""
        shutil.rmtree(self._folder, ignore_errors=True)
        os.close(self._held)


def _made() -> "tuple[Path, int]":
    """A new folder, and the descriptor that holds its lock."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        with suppress(FileNotFoundError):
            held = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
            fcntl.flock(held, fcntl.LOCK_EX)
            if folder.exists():
                folder.chmod(0o711)  # for workers of another user, who know the path
                return folder, held
            os.close(held)  # another process took it for abandoned before it was locked


def _remove_abandoned() -> None:
    """Removes the folders of processes that were killed: nobody holds their locks."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        try:
            held = os.open(folder, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_DIRECTORY)
        except OSError:
            continue  # another user's, or gone
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(held).st_uid == os.getuid():
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            pass  # in use
        finally:
            os.close(held)


def environment(code: Code, root: Path) -> dict[str, str]:
    """The node's own variables, those of the service over them, and the programs' folder first on the path."""
    merged = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_FOR_PROGRAMS)}
    path = [code.environment.get("PYTHONPATH"), merged.get("PYTHONPATH")]
    if (root / PROGRAMS).is_dir():
        path.insert(0, str(root / PROGRAMS))
    return {**merged, **code.environment, "PYTHONPATH": os.pathsep.join(filter(None, path))}


def folder(root: Path) -> Path:
    """The current folder of the processes."""
    return root / PROGRAMS if (root / PROGRAMS).is_dir() else root / OWN


def command(code: Code, module: str, arguments: "list[str]") -> "list[str]":
    """The command line that runs a module of `poolshift.worker` on the node.

    Raises:
        FileNotFoundError: the node has no such interpreter.
    """
    if code.python is None:
        return [sys.executable, str(launcher.__file__), module, *arguments]
    python = which(code.python)
    if python is None:
        state = "is not executable" if Path(code.python).exists() else "is not there"
        raise FileNotFoundError(f"the interpreter {code.python} {state}")
    return [python, str(launcher.__file__), module, *arguments]
