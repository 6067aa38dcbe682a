"""Programs that leave something in their worker, and one that says if anything is there."""

import _thread
import faulthandler
import os
import queue
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import Any

from poolshift.worker.framing import frame_of_two

_kept: list[Any] = []


def leaves(what: str) -> str:
    """Leaves that behind, and the next program to it."""
    _LEAVES[what]()
    return what


def finds_late() -> dict[str, Any]:
    """Tells in which state it finds its worker, which takes longer than any timer that `leaves` leaves."""
    time.sleep(0.4)
    return finds()


def finds() -> dict[str, Any]:
    """Tells in which state it finds its worker."""
    return {
        "pid": os.getpid(),
        "handlers": [repr(signal.getsignal(number)) for number in range(1, 32)],
        "blocked": sorted(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, ()))),
        "timers": [signal.getitimer(timer) for timer in range(3)],
        "directory": os.getcwd(),  # noqa: PTH109
        "umask": os.umask(0o022),
        "limits": [resource.getrlimit(limit) for limit in range(10)],
        "recursion": sys.getrecursionlimit(),
        "streams": [type(sys.stdout).__name__, type(sys.stderr).__name__],
    }


def dies_of_another(earlier: str, generation: str) -> None:
    """Has the worker say late what an earlier execution has left, and dies of that."""
    left = b'{"op":"left","id":"%s","gen":%s,"what":["open files"]}' % (earlier.encode(), generation.encode())
    os.write(4, frame_of_two(left, b""))
    os._exit(1)


def _die() -> None:
    time.sleep(0.3)
    os._exit(7)


def _handle(number: int) -> None:
    signal.signal(number, lambda *_: os._exit(7))


def _alarm(timer: int, seconds: float) -> None:
    signal.setitimer(timer, seconds)


def _lower(limit: int, value: int) -> None:
    resource.setrlimit(limit, (value, resource.getrlimit(limit)[1]))


def _leave_directory() -> None:
    os.chdir("/")
    os.umask(0o777)


def _leave_a_pool(busy: bool) -> None:
    pool = ThreadPoolExecutor(1)
    pool.submit(lambda: None).result()
    if busy:
        pool.submit(_die)
    _kept.append(pool)


def _leave_a_bare_thread() -> None:
    started = threading.Event()

    def run() -> None:
        started.set()
        _die()

    _thread.start_new_thread(run, ())
    started.wait()


def _leave_a_queue() -> None:
    threading.Thread(target=queue.Queue[int]().get, daemon=True).start()


def _leave_an_ended_thread() -> None:
    thread = threading.Thread(target=int)
    thread.start()
    thread.join()


def _leave_files() -> None:
    _kept.extend(os.open("/", os.O_RDONLY) for _ in range(300))


def _forget_modules() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] in ("concurrent", "json")]:
        del sys.modules[name]


def _leave_processes() -> None:
    _kept.extend(subprocess.Popen(["sleep", "600"]) for _ in range(70))


def _redirect(fd: int) -> None:
    null = os.open("/dev/null", os.O_WRONLY)
    os.dup2(null, fd)
    os.close(null)


_PUT_BACK: MappingProxyType[str, Callable[[], Any]] = MappingProxyType(
    {
        "an alarm": lambda: _alarm(signal.ITIMER_REAL, 0.2),
        "an alarm again and again": lambda: signal.setitimer(signal.ITIMER_REAL, 0.2, 0.2),
        "a timer of the processor's": lambda: _alarm(signal.ITIMER_PROF, 0.2),
        "a virtual timer": lambda: _alarm(signal.ITIMER_VIRTUAL, 0.2),
        "a watchdog": lambda: faulthandler.dump_traceback_later(0.2, exit=True),
        "a signal handler": lambda: _handle(signal.SIGUSR1),
        "an ignored signal": lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN),
        "a blocked signal": lambda: signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM}),
        "another directory": _leave_directory,
        "a soft limit": lambda: _lower(resource.RLIMIT_NOFILE, 8),
        "a limit of memory": lambda: _lower(resource.RLIMIT_AS, 2**34),
        "a recursion limit": lambda: sys.setrecursionlimit(120),
        "another stdout": lambda: setattr(sys, "stdout", open(os.devnull, "w")),  # noqa: PTH123, SIM115
        "no stderr": lambda: setattr(sys, "stderr", None),
    }
)
_HARMLESS: MappingProxyType[str, Callable[[], Any]] = MappingProxyType(
    {
        "a thread pool": lambda: _leave_a_pool(busy=False),
        "a thread that waits for work": _leave_a_queue,
        "a thread that has ended": _leave_an_ended_thread,
        "a process": lambda: subprocess.Popen(["sleep", "600"]),
    }
)
_RECYCLED: MappingProxyType[str, Callable[[], Any]] = MappingProxyType(
    {
        "a thread": lambda: threading.Thread(target=_die, daemon=True).start(),
        "a thread without a name": _leave_a_bare_thread,
        "a timer": lambda: threading.Timer(0.3, os._exit, (7,)).start(),
        "a pool that is busy": lambda: _leave_a_pool(busy=True),
        "open files": _leave_files,
        "processes": _leave_processes,
        "modules that are missing": _forget_modules,
        "a closed output": lambda: os.close(2),
        "a redirected output": lambda: _redirect(1),
    }
)
_LEAVES = {**_PUT_BACK, **_HARMLESS, **_RECYCLED}
