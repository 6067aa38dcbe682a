"""Keeps what the judge saw, for an export that `poolshift judge replay` takes."""

import heapq
import math
import struct
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from analysis.verdict import Evidence as Fed
from routing.rollout.reasons import TimedCall
from routing.telemetry.recorder import OK

MAX_RECORDED: Final = 65_536
"""Calls that are kept, the newest."""
MAX_FED: Final = 4_096
"""Changes that are kept of what the judge was fed, the newest."""

_ROW: Final = struct.Struct("=dddddQB")
"""The numbers of one call: one step of the processor's for all of them."""
_pack_into: Final = _ROW.pack_into
_IS_V2: Final = 1
_IS_COLD: Final = 2
_HAS_KEY: Final = 4
_UNKNOWN: Final = math.nan
"""The cost of tokens whose model has no price."""


class FedChange(NamedTuple):
    """A change of what the judge is fed."""

    t: float
    w: float
    action: str
    evidence: Fed
    not_worse: Fed | None
    promotes: bool


class Recording:
    """The newest calls that counted, and what the judge was fed between them.

    The room for all calls, 4 MiB, is taken at the start: a service that has run for hours has no more memory for it.
    """

    def __init__(self, limit: int = MAX_RECORDED) -> None:
        self.dropped = 0
        """Calls that there was no room for any more."""
        self._limit = limit
        self._next = 0
        self._is_full = False
        self._rows = bytearray(_ROW.size * limit)
        """The numbers of all calls, by their places."""
        self._programs = [""] * limit
        self._outcomes = [""] * limit
        self._attempts: dict[int, list[str]] = {}
        """The codes of the failed attempts of a few calls, by their places."""
        self._fed: deque[FedChange] = deque(maxlen=MAX_FED)

    def __len__(self) -> int:
        return self._limit if self._is_full else self._next

    def add(
        self,
        t: float,
        assigned: float,
        w: float,
        key_hash: int | None,
        version: str,
        program: str,
        outcome: str,
        ms: float,
        cost: float | None,
        attempts: Sequence[str],
        *,
        is_cold: bool,
    ) -> None:
        """Keeps a call. `t` is the time at which it counted; `ms` is its time as the judge takes it."""
        place = self._next
        if self._is_full:
            self.dropped += 1
            self._attempts.pop(place, None)
        self._programs[place], self._outcomes[place] = program, outcome
        flags = _IS_V2 if version == "v2" else 0
        if is_cold:
            flags |= _IS_COLD
        if key_hash is not None:
            flags |= _HAS_KEY
        _pack_into(
            self._rows, place * _ROW.size, t, assigned, w, ms, _UNKNOWN if cost is None else cost, key_hash or 0, flags
        )
        if attempts:
            self._attempts[place] = list(attempts)
        self._next = place + 1
        if self._next == self._limit:
            self._next, self._is_full = 0, True

    def add_fed(self, change: FedChange) -> None:
        """Keeps a change of what the judge is fed."""
        self._fed.append(change)

    def clear(self) -> None:
        """Forgets everything."""
        self._next, self._is_full, self.dropped = 0, False, 0
        self._attempts.clear()
        self._fed.clear()

    def newest_timed(self, count: int, floor_ms: float) -> list[TimedCall]:
        """Returns those of the newest `count` calls whose time counts: warm ones that succeeded, without the floor."""
        timed = []
        for place in self._newest(count):
            _, _, _, ms, _, _, flags = self._row(place)
            if self._outcomes[place] == OK and not flags & _IS_COLD:
                timed.append(TimedCall(_version(flags), self._programs[place], ms - floor_ms))
        return timed

    def snapshot(self) -> "Recording":
        """Returns a copy, for another thread. It takes a few milliseconds."""
        copied = Recording(0)
        copied.dropped, copied._limit = self.dropped, self._limit
        copied._next, copied._is_full = self._next, self._is_full
        copied._rows, copied._programs, copied._outcomes = self._rows[:], self._programs[:], self._outcomes[:]
        copied._attempts, copied._fed = dict(self._attempts), self._fed.copy()
        return copied

    def lines(self) -> Iterator[dict[str, Any]]:
        """Yields everything as lines of a trace, in the order of time. Keys are hashes."""
        calls = ((self._row(place)[0], 0, self._call_line(place)) for place in self._newest(self._limit))
        fed = ((change.t, 1, _fed_line(change)) for change in self._fed)
        return (line for _, _, line in heapq.merge(calls, fed, key=lambda one: one[:2]))

    def _newest(self, count: int) -> list[int]:
        """Returns the places of the newest `count` calls, from the oldest to the newest."""
        return [(self._next - back) % self._limit for back in range(min(count, len(self)), 0, -1)]

    def _row(self, place: int) -> tuple[float, float, float, float, float, int, int]:
        """Returns the time, the one of the assignment, the share, the milliseconds, the cost, the key and the flags."""
        row: tuple[float, float, float, float, float, int, int] = _ROW.unpack_from(self._rows, place * _ROW.size)
        return row

    def _call_line(self, place: int) -> dict[str, Any]:
        t, assigned, w, ms, cost, key, flags = self._row(place)
        line = {
            "t": round(t, 6),
            "assigned": round(assigned, 6),
            "w": w,
            "arm": _version(flags),
            "key": f"{key:016x}" if flags & _HAS_KEY else None,
            "program": self._programs[place],
            "outcome": self._outcomes[place],
            "ms": round(ms, 3),
        }
        if flags & _IS_COLD:
            line["cold"] = True
        if cost:
            line["cost"] = None if math.isnan(cost) else cost
        if attempts := self._attempts.get(place):
            line["attempts"] = attempts
        return line


def _version(flags: int) -> str:
    return "v2" if flags & _IS_V2 else "v1"


def _fed_line(change: FedChange) -> dict[str, Any]:
    evidence, not_worse = change.evidence, change.not_worse
    line: dict[str, Any] = {
        "t": round(change.t, 6),
        "w": change.w,
        "fed": evidence.guardrail,
        "action": change.action,
        "log_e": round(evidence.log_e, 6),
        "threshold": round(evidence.threshold, 6),
        "stratum": evidence.stratum,
    }
    if change.promotes:
        line["promotes"] = True
    if not_worse is not None:
        line["not_worse"] = {"log_e": round(not_worse.log_e, 6), "threshold": round(not_worse.threshold, 6)}
    return line
