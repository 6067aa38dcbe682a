"""The code that a service has brought to a node, unpacked in a folder of its own."""

import hashlib
import io
import os
import sys
import tempfile
import zipfile
from pathlib import Path
from shutil import which

from poolshift.launcher import start as launcher
from poolshift.node.messages import Code

OWN = "own"
"""The folder of the archive with what belongs to the service: the examples."""
PROGRAMS = "programs"
"""The folder of the archive with the user's programs, if the service has brought any."""
_NOT_FOR_PROGRAMS = ("RAY_",)


class Unpacked:
    """Keeps each archive unpacked once, until it is closed."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="poolshift-node-")

    def __repr__(self) -> str:
        return f"<Unpacked {self._folder.name}>"

    def root(self, code: Code) -> Path:
        """The folder with the content of the archive.

        Raises:
            OSError, zipfile.BadZipFile: it cannot be unpacked.
        """
        root = Path(self._folder.name) / hashlib.sha256(code.archive).hexdigest()[:16]
        if not root.exists():
            with zipfile.ZipFile(io.BytesIO(code.archive)) as archive:
                archive.extractall(root)
            (root / OWN).mkdir(exist_ok=True)
        return root

    def close(self) -> None:
        """Removes all folders."""
        self._folder.cleanup()


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
    python = sys.executable if code.python is None else which(code.python)
    if python is None:
        raise FileNotFoundError(f"the node has no interpreter {code.python}")
    return [python, str(launcher.__file__), module, *arguments]
