"""The child's side of a fork in the zygote: it becomes a worker, runs, and exits, whatever fails."""

import fcntl
import gc
import os
import resource
import signal
import sys
from collections.abc import Callable
from functools import partial
from typing import NoReturn, TypeVar

from poolshift.worker import linux
from poolshift.worker.loop import Worker
from poolshift.worker.revision import CodeRevision

_T = TypeVar("_T")
_FAILED = 1
_REQUESTS_FD = 3
_REPLIES_FD = 4
_FIRST_FREE_FD = 5


def run_and_exit(work: Callable[[], None]) -> NoReturn:
    """Runs `work` and ends the process with the exit code that Python would end with.

    The process is a copy of the zygote, so nothing but `os._exit` may follow, whatever the program has left: a broken
    `sys.stdout`, an exception hook or a signal handler that raises.
    """
    status = _FAILED
    try:
        status = _status_of(work)
    finally:
        try:
            linux.block_signals()
        finally:
            os._exit(status)


def _status_of(work: Callable[[], None]) -> int:
    status = 0
    try:
        work()
    except BaseException as error:
        status = _try(partial(_status_after, error), _FAILED)
    _try(_flush_output, None)
    return status


def _try(action: Callable[[], _T], otherwise: _T) -> _T:
    """The result of `action`, or `otherwise` if it raises: exit codes, hooks and streams can be a program's objects."""
    try:
        return action()
    except BaseException:
        return otherwise


def _status_after(error: BaseException) -> int:
    """The exit code that Python ends with after `error`; one that does not ask for an exit goes to the hook first."""
    if not isinstance(error, SystemExit):
        sys.excepthook(type(error), error, error.__traceback__)
        return _FAILED
    if error.code is None:
        return 0
    return int.__and__(error.code, 0xFF) if isinstance(error.code, int) else _FAILED


def _flush_output() -> None:
    try:
        sys.stdout.flush()
    finally:
        sys.stderr.flush()


class WorkerChild:
    """A forked worker's whole life, from the zygote's copy to the last call."""

    def __init__(
        self,
        generation: int,
        requests: int,
        replies: int,
        output: int,
        allowed_modules: tuple[str, ...],
        code: CodeRevision,
        open_files: int,
        *,
        is_shared: bool,
    ) -> None:
        """Takes the descriptors that requests come from, and that replies and what is printed go to.

        A worker that `is_shared` runs many calls at once.
        """
        self._generation = generation
        self._requests = requests
        self._replies = replies
        self._output = output
        self._allowed_modules = allowed_modules
        self._code = code
        self._open_files = open_files
        self._is_shared = is_shared

    def run(self, zygote: int, user: tuple[int, int] | None) -> None:
        """Answers calls until the service closes its end. `zygote` is the parent's process id."""
        os.setsid()  # a process group of its own: the zygote kills the whole group with it
        self._limit()
        if user is not None:
            linux.become_user(*user)
        linux.die_with_parent()  # after the change of the user, which takes this back
        if os.getppid() != zygote:
            raise SystemExit(_FAILED)  # the zygote died before the kernel knew that this process is to follow
        linux.gain_no_privileges()
        linux.adopt_orphans()  # a helper of this worker stays its own until the worker dies
        self._take_files()
        gc.enable()
        self._serve()

    def _serve(self) -> None:
        if self._is_shared:
            # Here, since an event loop takes as long to import as all else of a zygote.
            from poolshift.worker.concurrent import ConcurrentWorker  # noqa: PLC0415

            ConcurrentWorker(_REQUESTS_FD, _REPLIES_FD, self._generation, self._allowed_modules, self._code).serve()
        else:
            Worker(_REQUESTS_FD, _REPLIES_FD, self._generation, self._allowed_modules, self._code).serve()

    def _limit(self) -> None:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGCONT, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (self._open_files, hard))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    def _take_files(self) -> None:
        """Gives the worker's pipes their numbers. With the standard streams they are all that stays open."""
        os.dup2(self._output, 1)
        os.dup2(self._output, 2)
        # First out of the way of each other.
        replies = fcntl.fcntl(self._replies, fcntl.F_DUPFD, _FIRST_FREE_FD)
        os.dup2(self._requests, _REQUESTS_FD, inheritable=False)
        os.dup2(replies, _REPLIES_FD, inheritable=False)
        os.closerange(_FIRST_FREE_FD, os.sysconf("SC_OPEN_MAX"))
