"""Starts the `poolshift` command: its own modules come first, and a user's never reach them.

The service's packages (`app`, `config`, `store`, ...) have names that a user's modules may have too. So they lie in a
folder of their own, which is on the path of the service's processes alone, while `PYTHONPATH` is for the workers.
"""

import os
import site
import sys
from pathlib import Path


def main() -> None:
    """Runs the command line."""
    sys.path[:] = own_path()
    run()


def run() -> None:
    """Runs the command line on a path that is set, and ends the process."""
    # Both are found on the path that was just set.
    from cli.main import main as command  # noqa: PLC0415
    from poolshift.worker.fast_exit import exit_fast  # noqa: PLC0415

    try:
        command()
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            exit_fast(end.code or 0)
        raise


def own_path() -> list[str]:
    """The service's `sys.path`: its root, the standard library and what is installed; nothing of `PYTHONPATH`."""
    installed = {os.path.dirname(os.__file__), *site.getsitepackages()}  # noqa: PTH120 - pathlib would double the start
    users = {os.path.abspath(entry) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep)}  # noqa: PTH100
    users.add(os.path.dirname(os.path.abspath(sys.argv[0])))  # noqa: PTH100, PTH120 - Python's own entry for a script
    return [str(root()), *(entry for entry in sys.path if entry and (entry in installed or entry not in users))]


def root() -> Path:
    """The folder that holds the service's packages: this one in a wheel, the checkout in an editable install."""
    here = Path(__file__).resolve().parent
    return here if (here / "cli").is_dir() else here.parents[1]
