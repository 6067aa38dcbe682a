"""Runs a module of the service's own in a process that no other process of the same user can look into.

    python -P -m common.hidden_process FD MODULE [ARGUMENT ...]

FD is a socket that all variables come from, and then its end. From its exec on, the kernel shows a process's memory,
environment and files to others of its user. So the process hides itself first, and only then reads the variables and
imports the module. `common.own_process` is the other side.
"""

import ctypes
import os
import runpy
import sys

_PR_SET_DUMPABLE = 4
_CHUNK_BYTES = 65536


def _hide() -> None:
    """Closes this process to others of its user (prctl(2)). No module of ours is imported before, which takes time."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _take_variables(fd: int) -> None:
    given = b"".join(iter(lambda: os.read(fd, _CHUNK_BYTES), b""))
    os.close(fd)
    for entry in filter(None, given.split(b"\0")):
        name, _, value = entry.partition(b"=")
        os.environb[name] = value


def main() -> None:
    """Runs the module that the command line names, with the rest of the command line as its own."""
    _hide()
    fd, module, *arguments = sys.argv[1:]
    _take_variables(int(fd))
    sys.argv[1:] = arguments
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
