"""Runs a module of `poolshift.worker` on an interpreter that has a `poolshift` of another version, or none.

    python .../poolshift/launcher/start.py MODULE [ARGUMENT ...]

The file lies in a folder by itself, since Python puts that folder on the path of a script. An interpreter that cannot
run a worker ends with one line on standard error, which says what to do, and with the exit status `UNFIT`. The file is
plain enough for Python 3.6 to get that far.
"""

import importlib
import os
import runpy
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

UNFIT = 3
OLDEST_PYTHON = (3, 10)
OLDEST_MSGSPEC = (0, 22)
HERE = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - pathlib would be one more import
PACKAGE = "poolshift"


class OwnPackageFinder(MetaPathFinder):
    """Finds the service's own `poolshift`, whatever the interpreter has installed under that name."""

    def find_spec(
        self, fullname: str, path: "Sequence[str] | None" = None, target: "ModuleType | None" = None
    ) -> "ModuleSpec | None":
        """Called by the import system ahead of every other finder."""
        if fullname != PACKAGE:
            return None
        return PathFinder.find_spec(fullname, [os.path.dirname(os.path.dirname(HERE))], target)  # noqa: PTH120


def fault() -> "str | None":
    """Returns the reason for which this interpreter cannot run a worker, with the way out of it; None if it can."""
    if sys.version_info < OLDEST_PYTHON:
        return f"it is Python {sys.version.split()[0]}: workers need Python {_dotted(OLDEST_PYTHON)} or newer"
    install = f"{sys.executable} -m pip install 'msgspec>={_dotted(OLDEST_MSGSPEC)}'"
    try:
        found = importlib.import_module("msgspec").__version__
    except ModuleNotFoundError:
        return f"it has no msgspec: {install}"
    except ImportError as error:
        return f"its msgspec cannot be imported ({error}): {install}"
    if tuple(int(part) for part in found.split(".")[:2]) < OLDEST_MSGSPEC:
        return f"its msgspec is {found}: {install}"
    return None


def _dotted(version: "tuple[int, int]") -> str:
    return f"{version[0]}.{version[1]}"


def main() -> None:
    """Runs the module that the command line names, with the rest of the command line as its own."""
    if sys.path and os.path.abspath(sys.path[0]) == HERE:  # noqa: PTH100
        del sys.path[0]
    reason = fault()
    if reason is not None:
        sys.stderr.write(reason + "\n")
        sys.exit(UNFIT)
    sys.meta_path.insert(0, OwnPackageFinder())
    module = sys.argv[1]
    del sys.argv[0]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
