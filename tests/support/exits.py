"""Programs that make the end of their worker as hard as a program can."""

import atexit
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import MappingProxyType
from typing import Any


def leaves(way: str) -> str:
    """Leaves something behind that fails when the worker ends."""
    _LEAVES[way]()
    return way


def ends(way: str) -> str:
    """Ends the call, and mostly its worker, in a way of its own."""
    return _ENDS[way]()


def daemon(seconds: float) -> int:
    """Starts a helper as daemons start, in a session of its own and with no parent; its process id."""
    read, write = os.pipe()
    if os.fork() == 0:
        os.setsid()
        child = os.fork()
        if child == 0:
            os.close(write)
            time.sleep(seconds)
        else:
            os.write(write, str(child).encode())
        os._exit(0)
    os.close(write)
    with open(read) as told:  # noqa: PTH123  # a pipe has no path
        pid = int(told.read())
    os.wait()
    return pid


def _broken_pipe(name: str) -> None:
    read, write = os.pipe()
    os.close(read)
    stream = open(write, "w")  # noqa: PTH123, SIM115  # a pipe has no path, and outlives the call
    stream.write("never read")
    setattr(sys, name, stream)
    if name == "stdout":
        os.dup2(write, 1)


class _Raising:
    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)


def _raises(*_: object) -> Any:
    raise BrokenPipeError("left behind")


_LEAVES: MappingProxyType[str, Callable[[], Any]] = MappingProxyType(
    {
        "a broken stdout": lambda: _broken_pipe("stdout"),
        "a broken stderr": lambda: _broken_pipe("stderr"),
        "no stdout": lambda: delattr(sys, "stdout"),
        "a stdout that raises": lambda: setattr(sys, "stdout", _Raising()),
        "an atexit function that raises": lambda: atexit.register(_raises),
        "a hook that raises": lambda: setattr(sys, "excepthook", _raises),
        "a thread that never ends": lambda: threading.Thread(target=time.sleep, args=(600,)).start(),
    }
)


class _OddExit(SystemExit):
    @property
    def code(self) -> Any:  # type: ignore[override]
        raise BrokenPipeError("no code")


class _OddCode(int):
    def __and__(self, other: int) -> int:
        raise BrokenPipeError("no code")


def _exit(code: Any) -> str:
    sys.exit(code)


def _odd_exit() -> str:
    raise _OddExit


def _raise_in_finally() -> str:
    try:
        sys.exit(3)
    finally:
        _raises()


def _exit_with_a_broken_stdout_and_hook() -> str:
    _broken_pipe("stdout")
    _broken_pipe("stderr")
    sys.excepthook = _raises
    sys.exit(4)


def _exit_under_signals() -> str:
    signal.signal(signal.SIGALRM, _raises)
    signal.setitimer(signal.ITIMER_REAL, 1e-4, 1e-4)
    while True:
        try:
            sys.exit(0)
        except BrokenPipeError:
            continue


def _recurse() -> str:
    return _recurse()


def _fork_and_fail() -> str:
    child = os.fork()
    if child == 0:
        _exit_with_a_broken_stdout_and_hook()
    os.waitpid(child, 0)
    return "forked"


def _interrupt() -> str:
    raise KeyboardInterrupt


_ENDS: MappingProxyType[str, Callable[[], str]] = MappingProxyType(
    {
        "exit with a text": lambda: _exit("a text"),
        "exit with a huge code": lambda: _exit(10**400),
        "exit with a code that raises": lambda: _exit(_OddCode(3)),
        "an exit without a code": _odd_exit,
        "an error in finally": _raise_in_finally,
        "everything broken": _exit_with_a_broken_stdout_and_hook,
        "signals that raise": _exit_under_signals,
        "a recursion": _recurse,
        "an interrupt": _interrupt,
        "a fork that fails": _fork_and_fail,
    }
)
