"""Imports the modules that programs may come from, once, so that the start can tell which of them cannot be imported.

    python -P -m poolshift.worker.import_check ALLOWED_MODULES OWN_ROOT [UID GID]

The process has a worker's path, environment and user, and ends with whatever the modules have started. The parent's
side is `pools.process.import_check`, which reads one `Imported` from standard output for each module.
"""

import importlib
import json
import os
import sys
import traceback
from pathlib import Path
from typing import NamedTuple

from poolshift.worker import linux, reaper, user_path
from poolshift.worker.exception_text import describe, truncate

_MAX_FAULT_LENGTH = 500


class Imported(NamedTuple):
    """The import of one module: without a `fault`, or with the reason for which it failed, in one line.

    On the wire it is an array. This process is a part of each start, and msgspec would be half of its imports.
    """

    module: str
    is_found: bool = True
    fault: str | None = None


def try_import(module: str) -> Imported:
    """Imports `module`, whatever that raises."""
    try:
        importlib.import_module(module)
    except BaseException as error:
        if is_missing(module, error):
            return Imported(module, is_found=False, fault=_in_one_line(str(error)))
        return Imported(module, fault=fault_of_import(error))
    return Imported(module)


def fault_of_import(error: BaseException) -> str:
    """Says in one line why an import failed, and in which line of the users' code."""
    return _in_one_line(describe(error).detail) + _place(error)


def is_missing(module: str, error: BaseException) -> bool:
    """Tells if an import failed because there is no such module, or no package that it would be in."""
    return isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}.")


def _in_one_line(text: str) -> str:
    return truncate(" ".join(text.split()), _MAX_FAULT_LENGTH)


def _place(error: BaseException) -> str:
    """The last line of a user's code that led to the error; none for a SyntaxError, which names its own."""
    frames = traceback.extract_tb(error.__traceback__)
    users = [frame for frame in frames if not _is_of_imports(frame.filename)]
    return f" ({Path(users[-1].filename).name}, line {users[-1].lineno})" if users else ""


def _is_of_imports(file: str) -> bool:
    """Tells if a file is one of this package's, or of Python's import system."""
    return file.startswith(("<frozen", _OUR_FOLDER)) or file == importlib.__file__


_OUR_FOLDER = f"{Path(__file__).parent}{os.sep}"


def main() -> None:
    """Imports each module, and writes how that went."""
    modules, own_root, *user = sys.argv[1:]
    linux.OomScore().become_victim()
    linux.set_dumpable(False)  # as a worker is
    user_path.install(Path(own_root), modules.split(","))
    if user:
        linux.become_user(int(user[0]), int(user[1]))
    linux.die_with_parent()  # after the change of the user, which takes this back
    linux.gain_no_privileges()
    report = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_RDWR), 1)  # the modules may print
    for module in modules.split(","):
        os.write(report, json.dumps(try_import(module)).encode() + b"\n")
    os._exit(0)  # threads of the modules would keep the process


if __name__ == "__main__":
    reaper.run_beside_reaper(main)
