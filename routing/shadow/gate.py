"""The gate of shadow calls: open while the event loop and the machine's processors have time left."""

import math
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal

MAX_LAG_S: Final = 0.02
"""The event loop lags if it comes to a timer later than this."""
MAX_LOOP_SHARE: Final = 0.7
"""The event loop is one thread: with work for a larger share of its time, it has none to spare for shadow calls."""
FIRST_CALLS: Final = 8
"""Calls that may begin between two ticks after a pause. Later ticks may have twice as many as the one before."""
MEASURE_EVERY_S: Final = 0.25
Shut = Literal["event_loop_busy", "processors_busy"]
_CGROUP: Final = Path("/sys/fs/cgroup")
_SCHEDULED: Final = Path("/proc/thread-self/schedstat")


class LoadGate:
    """Measures the event loop's delay and load, and the processors' load, each time that `tick` is called."""

    def __init__(
        self,
        max_cpu_percent: float,
        busy_share: Callable[[], float | None] | None = None,
        thread_work: Callable[[], float] | None = None,
    ) -> None:
        """Keeps the gate shut above `max_cpu_percent`; at 100 the processors' load does not count.

        `thread_work` returns the seconds in which the event loop's thread had work so far.
        """
        self.shut_by: Shut | None = None
        """The part that has no time left; None while the gate is open."""
        self._begun = 0
        self._may_begin = FIRST_CALLS
        self._max_share = max_cpu_percent / 100
        self._busy_share = busy_share if busy_share is not None else Processors().busy_share
        self._thread_work = thread_work if thread_work is not None else work_of_this_thread
        self._ticked_at = -math.inf
        self._loop_spent = 0.0
        self._measured_at = -MEASURE_EVERY_S
        self._share = 0.0

    @property
    def is_open(self) -> bool:
        """True if there is time left."""
        return self.shut_by is None

    def admits(self) -> bool:
        """Tells if a shadow call may begin: so few at first that a sudden load is noticed before they are many."""
        return self.is_open and self._begun < self._may_begin

    def begun(self) -> None:
        """Notes that a shadow call has begun."""
        self._begun += 1

    def tick(self, expected: float, now: float) -> None:
        """Notes that a timer that was due at `expected` came at `now`, and measures the processors now and then."""
        spent = self._thread_work()
        loop_share = (spent - self._loop_spent) / (now - self._ticked_at) if now > self._ticked_at else 0.0
        self._ticked_at, self._loop_spent = now, spent
        if self._max_share < 1.0 and now - self._measured_at >= MEASURE_EVERY_S:
            self._measured_at = now
            share = self._busy_share()
            if share is not None:
                self._share = share
        if now - expected > MAX_LAG_S or loop_share > MAX_LOOP_SHARE:
            self.shut_by = "event_loop_busy"
        elif self._max_share < 1.0 and self._share > self._max_share:
            self.shut_by = "processors_busy"
        else:
            self.shut_by = None
        self._may_begin = max(FIRST_CALLS, 2 * self._begun) if self.is_open else FIRST_CALLS
        self._begun = 0


def work_of_this_thread() -> float:
    """Returns the seconds in which this thread ran or waited for a processor.

    A loop that is never idle may run for half of the time only, if other processes want the same processors. A kernel
    that does not tell the waits leaves the time in which the thread ran.
    """
    try:
        ran, waited, _ = _SCHEDULED.read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return time.thread_time()
    return (int(ran) + int(waited)) / 1e9


class Processors:
    """The load of the processors that this process may use, and of its control group's quota."""

    def __init__(self) -> None:
        self._names = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        self._quota = _quota()
        self._before: tuple[float, int, int, int] | None = None

    def busy_share(self) -> float | None:
        """Returns the busy share since the last measurement, from 0 to 1; None at first, or if it cannot be measured.

        Processes of low priority (`nice`) do not count: they give way.
        """
        try:
            idle, total = self._ticks()
        except (OSError, ValueError):
            return None
        now, used_us = time.monotonic(), _used_us() if self._quota is not None else 0
        before, self._before = self._before, (now, idle, total, used_us)
        if before is None or total <= before[2]:
            return None
        share = 1 - (idle - before[1]) / (total - before[2])
        if self._quota is not None and now > before[0]:
            share = max(share, (used_us - before[3]) / 1e6 / (now - before[0]) / self._quota)
        return share

    def _ticks(self) -> tuple[int, int]:
        """Idle time (with waits for disks, and time for low priorities) and all time of the processors, in ticks."""
        idle = total = 0
        for line in Path("/proc/stat").read_text(encoding="ascii").splitlines():
            name, _, values = line.partition(" ")
            if name in self._names:
                user, nice, system, idling, waiting, *rest = map(int, values.split())
                idle += nice + idling + waiting
                total += user + nice + system + idling + waiting + sum(rest[:3])
            elif not name.startswith("cpu"):
                break
        return idle, total


def _quota() -> float | None:
    """The number of processors that the control group may use; None is no limit."""
    with suppress(OSError, ValueError):
        quota, period = (_CGROUP / "cpu.max").read_text(encoding="ascii").split()
        return None if quota == "max" else int(quota) / int(period)
    return None


def _used_us() -> int:
    with suppress(OSError, ValueError):
        for line in (_CGROUP / "cpu.stat").read_text(encoding="ascii").splitlines():
            name, _, value = line.partition(" ")
            if name == "usage_usec":
                return int(value)
    return 0
