"""Finds the state that a call leaves in its worker and that could end or change the next program's call.

A call may leave loaded modules, connections and helper processes. The rest is compared with how the process was before,
and put back. If that is impossible, the service is told, and replaces the worker.
"""

import _signal  # type: ignore[import-not-found]  # the same functions as in `signal`, 25 times as fast
import faulthandler
import operator
import os
import resource
import signal
import sys
import threading
import time
from _thread import _count as _thread_count
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

from poolshift.worker.linux import children

MAX_LEFT_FILES = 256
"""Files that calls may leave open in a worker, such as the connections of pools."""
MAX_LEFT_PROCESSES = 64
"""Children that calls may leave, dead ones included."""
ALWAYS_CHECKED = 32
CHECK_INTERVAL_S = 0.1
"""A program is checked after each of its first calls; if all of these left nothing, at intervals of so many seconds.

A check takes ten times as long as a plain call does in its worker. Threads and the alarm are looked at each time.
"""

_HANDS_OVER = sys.version_info >= (3, 13)
"""A queue hands work to a thread that waits, and is empty before that thread runs; earlier the thread took it out."""
_LOOKS = 4
_LOOK_INTERVAL_S = 0.0005
_SIGNALS = range(1, signal.SIGRTMIN)
_CPU_TIMERS = (signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
_LIMITS = (
    resource.RLIMIT_AS,
    resource.RLIMIT_CPU,
    resource.RLIMIT_DATA,
    resource.RLIMIT_FSIZE,
    resource.RLIMIT_NOFILE,
)
_STREAMS = ("stdin", "stdout", "stderr")
_OUTPUT_FDS = (1, 2)


class Leftovers:
    """The state that this process must be in before each call."""

    def __init__(self) -> None:
        self._clean_calls: dict[int, int] = {}
        """By number of the program's definition: calls since the last that left something."""
        self._next_check = 0.0
        """The time of `time.monotonic` from which on programs with clean calls are checked again."""
        self.accept()

    def accept(self) -> None:
        """Takes the process as it is: the effects of loading a program's modules are to last."""
        self._threads = frozenset(sys._current_frames())
        self._handlers = self._handlers_now()
        self._blocked = _signal.pthread_sigmask(signal.SIG_BLOCK, ())
        self._directory = _directory()
        self._umask = os.umask(0o077)
        os.umask(self._umask)
        self._limits = self._limits_now()
        self._streams = self._streams_now()
        self._outputs = list(map(_file, _OUTPUT_FDS))
        self._recursion_limit = sys.getrecursionlimit()
        self._files = _lowest_free()
        self._modules = len(sys.modules)

    def before_reply(self) -> list[str]:
        """Stops the alarm that runs, and says if threads do: these could end the process at any moment."""
        if _signal.getitimer(signal.ITIMER_REAL)[0]:
            signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
        return self._busy_threads()

    def after_reply(self, number: int) -> list[str]:
        """Puts everything else back, while nobody waits; returns what cannot be.

        `number` is that of the program's definition.
        """
        if threads := self._busy_threads():  # one that was started amid the last instructions may show only now
            return threads
        clean_calls = self._clean_calls.get(number, 0)
        self._clean_calls[number] = clean_calls + 1
        now = time.monotonic()
        if clean_calls >= ALWAYS_CHECKED and now < self._next_check:
            return []
        self._next_check = now + CHECK_INTERVAL_S
        left = self._counted()
        if self._is_changed():
            self._clean_calls[number] = 0
            left += [name for name, reset in self._resets() if not reset()]
        return left

    def forget_programs(self) -> None:
        """Forgets the numbers, which stand for other definitions from now on."""
        self._clean_calls.clear()

    def _is_changed(self) -> bool:
        return not (
            all(map(operator.is_, self._handlers_now(), self._handlers))
            and _signal.pthread_sigmask(signal.SIG_BLOCK, ()) == self._blocked
            and not any(_signal.getitimer(timer)[0] for timer in _CPU_TIMERS)
            and _directory() == self._directory
            and os.umask(self._umask) == self._umask
            and self._limits_now() == self._limits
            and all(map(operator.is_, self._streams_now(), self._streams))
            and list(map(_file, _OUTPUT_FDS)) == self._outputs
            and sys.getrecursionlimit() == self._recursion_limit
        )

    def _resets(self) -> tuple[tuple[str, Callable[[], bool]], ...]:
        return (
            ("signal handlers", self._reset_signals),
            ("working directory", self._reset_directory),
            ("limits", self._reset_limits),
            ("output", self._reset_streams),
        )

    def _reset_signals(self) -> bool:
        for timer in _CPU_TIMERS:
            signal.setitimer(timer, 0)
        for number, handler in zip(_SIGNALS, self._handlers, strict=True):
            if _signal.getsignal(number) is not handler:
                if handler is None:  # set in C before: Python cannot put it back
                    return False
                signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._blocked)
        return True

    def _reset_directory(self) -> bool:
        os.umask(self._umask)
        if self._directory is None:
            return False
        try:
            os.chdir(self._directory)
        except OSError:
            return False
        return True

    def _reset_limits(self) -> bool:
        sys.setrecursionlimit(self._recursion_limit)
        try:
            for limit, value in zip(_LIMITS, self._limits, strict=True):
                resource.setrlimit(limit, value)
        except (OSError, ValueError):
            return False  # only root can raise a hard limit again
        return True

    def _reset_streams(self) -> bool:
        for name, stream in zip(_STREAMS, self._streams, strict=True):
            setattr(sys, name, stream)
        return list(map(_file, _OUTPUT_FDS)) == self._outputs

    def _counted(self) -> list[str]:
        left = []
        if _lowest_free() > self._files + MAX_LEFT_FILES:
            left.append("open files")
        if _child_count() > MAX_LEFT_PROCESSES:
            left.append("processes")
        if len(sys.modules) < self._modules:
            left.append("modules, which are missing in sys.modules")
        return left

    def _busy_threads(self) -> list[str]:
        if not _thread_count():  # as after most calls; this takes 30 ns
            return []
        for _ in range(_LOOKS):
            if not self._has_busy_thread():
                return []
            time.sleep(_LOOK_INTERVAL_S)  # a thread that has just done its work is about to wait, or to end
        return ["threads"]

    def _has_busy_thread(self) -> bool:
        frames = [frame for thread, frame in sys._current_frames().items() if thread not in self._threads]
        return not all(map(_is_idle, frames)) or (_HANDS_OVER and _has_work(frames))

    def _handlers_now(self) -> list[Any]:
        return list(map(_signal.getsignal, _SIGNALS))

    def _limits_now(self) -> list[tuple[int, int]]:
        return list(map(resource.getrlimit, _LIMITS))

    def _streams_now(self) -> list[Any]:
        return [getattr(sys, name, None) for name in _STREAMS]


def _is_idle(frame: FrameType) -> bool:
    """Says if a thread waits for work without a timeout, as those of thread pools do: it ends nothing by itself."""
    code, names = frame.f_code, frame.f_locals
    if code is threading.Condition.wait.__code__:
        return names.get("timeout") is None
    if not _is_of_pool(frame):
        return False
    work = names.get("work_queue")
    return work is not None and work.empty() and names.get("work_item") is None


def _has_work(frames: Sequence[FrameType]) -> bool:
    """Says if a pool has handed work to one of these threads, which has not begun it.

    The pool counts the threads that wait and are not promised to work yet.
    """
    pools = [frame.f_locals["executor_reference"]() for frame in frames if _is_of_pool(frame)]
    return any(pool is not None and pool._idle_semaphore._value < pools.count(pool) for pool in pools)


def _is_of_pool(frame: FrameType) -> bool:
    """Says if a thread of a `ThreadPoolExecutor` is between two pieces of work."""
    code = frame.f_code
    return code.co_name == "_worker" and code.co_filename.endswith("/concurrent/futures/thread.py")


def _child_count() -> int:
    try:
        return len(children())
    except OSError:
        return 0  # no descriptor is free, which counts as too many files


def _directory() -> str | None:
    try:
        return os.getcwd()  # noqa: PTH109  # a Path takes four times as long to make
    except OSError:
        return None  # it was deleted


def _file(fd: int) -> tuple[int, int] | None:
    """The identity of the file that `fd` is open on; None if it is closed."""
    try:
        status = os.fstat(fd)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _lowest_free() -> int:
    """The lowest free file descriptor, which grows with what is left open; a huge number if none is free."""
    try:
        fd = os.open("/", os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return sys.maxsize
    os.close(fd)
    return fd
