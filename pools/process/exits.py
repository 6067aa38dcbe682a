"""The end of a worker, and its meaning for the call that the worker was at."""

import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import structlog

from pools.errors import ExecutionError, ExecutionTimeout, PoolClosed, WorkerCrashed

_log = structlog.stdlib.get_logger("poolshift.pools")


class ExitCause(StrEnum):
    """Why a worker is gone: it failed (the first three), or we ended it."""

    CRASH = "crash"
    SIGNAL = "signal"
    OOM = "oom"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    RECYCLED = "recycled"
    SHUTDOWN = "shutdown"

    @property
    def is_failure(self) -> bool:
        """True if the worker, or the program in it, is to blame."""
        return self in (ExitCause.CRASH, ExitCause.SIGNAL, ExitCause.OOM)


@dataclass(frozen=True, slots=True)
class Exit:
    """A worker's end; `description` is for people: `exit code 3`, `signal SIGSEGV`. `cpu_s` is the time it had used.

    `is_ours` tells that the program in it has surely nothing to do with it.
    """

    cause: ExitCause
    description: str
    cpu_s: float = 0.0
    is_ours: bool = False


def describe_exit(
    status: int,
    cpu_s: float,
    *,
    ended_for: ExitCause | None,
    fault: str | None,
    oom_killed: bool,
    reason: str | None = None,
) -> Exit:
    """Reads a wait status.

    Args:
        status: as waitpid(2) gives it.
        cpu_s: the processor time that it used, in seconds.
        ended_for: why we ended the worker, where we did.
        fault: what it did wrong on its channel, where that is why we ended it.
        reason: the memory limit that we ended the worker for, if not the pool's own.
        oom_killed: the kernel has ended a process for memory meanwhile.
    """
    if fault is not None:
        return Exit(ExitCause.CRASH, f"protocol violation: {fault}", cpu_s)
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        description = f"signal {_signal_name(number)}"
        if ended_for is ExitCause.OOM:
            return Exit(ended_for, f"killed: it grew past {reason or 'twice its memory limit'}", cpu_s)
        if ended_for is not None:
            return Exit(ended_for, description, cpu_s)
        if number == signal.SIGKILL and oom_killed:
            return Exit(ExitCause.OOM, "killed by the kernel: out of memory", cpu_s)
        return Exit(ExitCause.SIGNAL, description, cpu_s)
    description = f"exit code {os.waitstatus_to_exitcode(status)}"
    return Exit(ended_for or ExitCause.CRASH, description, cpu_s)


def log_death(version: str, pid: int, end: Exit, ids: Mapping[str, str | None]) -> None:
    """Logs that a worker has failed, with the ids of the call that it was at."""
    _log.warning("worker died", pool_version=version, pid=pid, cause=end.cause, exit=end.description, **ids)


def failure_of(end: Exit, blamed: str | None = None) -> ExecutionError:
    """The error of the call that a worker was at when it ended.

    `blamed` is the key of the program that had left the worker unfit for others, if one had.
    """
    match end.cause:
        case ExitCause.TIMEOUT:
            return ExecutionTimeout("the deadline passed while the program ran; its worker was killed")
        case ExitCause.SHUTDOWN:
            return PoolClosed("the service stopped before the program ended", started=True)
        case _:
            detail = f"the worker died while it ran the program: {end.description}"
            return WorkerCrashed(detail, exit_cause=end.description, is_ours=end.is_ours, blamed=blamed)


def failure_beside_others(end: Exit, works: int) -> ExecutionError:
    """The error of one of several calls and loads that a worker was at when it ended, whichever was the cause."""
    if end.cause is ExitCause.SHUTDOWN:
        return failure_of(end)
    if end.cause.is_failure:
        return WorkerCrashed(
            f"the worker died while it was at {works} calls, this one among them: {end.description}",
            exit_cause=end.description,
            is_ours=end.is_ours,
            is_counted=True,
            is_suspected=not end.is_ours,
        )
    detail = "the worker was killed: another call did not end when it was cancelled, or did not load in time"
    return WorkerCrashed(detail, exit_cause=end.description, is_counted=True)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)
