"""The gate of shadow calls: open while the event loop answers at once and the machine's processors have time left."""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

MAX_LAG_S: Final = 0.02
"""The event loop lags if it comes to a timer later than this."""
MEASURE_EVERY_S: Final = 0.25
_CGROUP: Final = Path("/sys/fs/cgroup")


class LoadGate:
    """Measures how late the event loop is and how busy the processors are, each time that `tick` is called."""

    def __init__(self, max_cpu_percent: float, busy_share: Callable[[], float | None] | None = None) -> None:
        """Keeps the gate shut above `max_cpu_percent`; at 100 the processors' load does not count."""
        self._max_share = max_cpu_percent / 100
        self._busy_share = busy_share if busy_share is not None else Processors().busy_share
        self._measured_at = -MEASURE_EVERY_S
        self._lag_s = 0.0
        self._share = 0.0

    @property
    def is_open(self) -> bool:
        """True if a shadow call may begin."""
        return self._lag_s <= MAX_LAG_S and (self._max_share >= 1.0 or self._share <= self._max_share)

    def tick(self, expected: float, now: float) -> None:
        """Notes that a timer that was due at `expected` came at `now`, and measures the processors now and then."""
        self._lag_s = now - expected
        if self._max_share < 1.0 and now - self._measured_at >= MEASURE_EVERY_S:
            self._measured_at = now
            share = self._busy_share()
            if share is not None:
                self._share = share


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
