"""Counts V2's calls and faults while it has all calls: then there is no V1 to compare it with."""

import asyncio
import time
from collections import deque
from dataclasses import dataclass
from typing import Final

from analysis.guardrails import GUARDRAIL_OF, OF_THE_VERSION
from analysis.incidents import Incidents
from analysis.relapse import Seen
from pools.calls import Call
from routing.rollout.model import Rollout
from routing.split import BASIS_POINTS
from routing.telemetry.recorder import NOT_ORGANIC, OK
from routing.versions import Decision, Reason, Version

RECENT_S: Final = 600.0
"""Seconds of the calls that the rate of now is about."""
LOOK_S: Final = 1.0
SAMPLE_S: Final = 10.0
"""Seconds between two samples of the counts."""
WATCHED_CODES: Final = frozenset(code for code, name in GUARDRAIL_OF.items() if name in OF_THE_VERSION)
MAX_PROGRAMS: Final = 256
"""Programs that are counted each; all others are counted together, as `OTHERS`."""
OTHERS: Final = ""
_TOGETHER: Final = frozenset({"engine", "capacity"})
"""Guardrails of which one incident fails many calls at once: a crash, or a queue that is full."""
MAX_SESSIONS: Final = 65_536
"""Sessions with a fault that are remembered, so that each counts once."""


@dataclass(frozen=True, slots=True)
class FaultRate:
    """V2's calls, and those of them that were faults."""

    calls: int
    faults: int

    def __add__(self, other: "FaultRate") -> "FaultRate":
        return FaultRate(self.calls + other.calls, self.faults + other.faults)

    def __str__(self) -> str:
        share = f" ({100 * self.faults / self.calls:.2g} %)" if self.calls else ""
        return f"{self.faults:,} of {self.calls:,} calls{share}"


NO_CALLS: Final = FaultRate(0, 0)


class V2Watch:
    """V2's organic calls on this replica, while no call is V1's. They are counted anew whenever that begins.

    `is_on` is what each call reads.
    """

    def __init__(self, pin: Version | None, *, has_v1: bool) -> None:
        self.is_forced = pin is Version.V2 or not has_v1
        """True if V2 has all calls whatever the percentage is, so that none can be taken from it."""
        self._is_pinned_away = pin is Version.V1
        self.is_on = self.is_forced
        self.counts: dict[tuple[str, str], int] = {}
        """By program and by code of a fault, or `ok`."""
        self.units: dict[str, Seen] = {}
        """By program the calls and faults that are evidence: the first fault of a session, one of a crash's faults."""
        self._faulty_sessions: set[str] = set()
        self._incidents = Incidents()
        self._programs: set[str] = set()
        self._samples: deque[tuple[float, FaultRate]] = deque([(time.monotonic(), NO_CALLS)])
        """The counts at some moments, by the monotonic clock; the first is of `RECENT_S` ago, or of the beginning."""

    def rollout_changed(self, rollout: Rollout) -> None:
        """Begins, or ends, with V2's share of all calls."""
        is_on = self.is_forced or (rollout.canary_basis_points == BASIS_POINTS and not self._is_pinned_away)
        if is_on != self.is_on:
            self.counts.clear()
            self.units.clear()
            self._faulty_sessions.clear()
            self._programs.clear()
            self._samples = deque([(time.monotonic(), NO_CALLS)])
            self.is_on = is_on

    def ended(self, decision: Decision, operation: str, call: Call, outcome: str) -> None:
        """Counts the end of a call, if it is one of a client on V2 that nobody has forced there."""
        if decision.version is not Version.V2 or decision.reason is Reason.FORCED or operation in NOT_ORGANIC:
            return
        program = call.program.id
        if program not in self._programs:
            if len(self._programs) < MAX_PROGRAMS:
                self._programs.add(program)
            else:
                program = OTHERS
        key = program, outcome if outcome in WATCHED_CODES else OK
        self.counts[key] = self.counts.get(key, 0) + 1
        self._count_unit(program, call.session_id, key[1])

    def _count_unit(self, program: str, session_id: str | None, outcome: str) -> None:
        """Counts a call as evidence, unless its session has had a fault, or its fault belongs to a known incident."""
        if session_id is not None and session_id in self._faulty_sessions:
            return
        is_fault = outcome != OK
        if is_fault and session_id is not None and len(self._faulty_sessions) < MAX_SESSIONS:
            self._faulty_sessions.add(session_id)
        guardrail = GUARDRAIL_OF.get(outcome, "")
        if guardrail in _TOGETHER and not self._incidents.is_new(guardrail, time.monotonic()):
            return
        seen = self.units.get(program, Seen(0, 0))
        self.units[program] = Seen(seen.calls + 1, seen.faults + is_fault)

    def most_faulty(self, program: str | None) -> tuple[str, str]:
        """Returns the program, and the code, with the most faults; `program` is given if it is known."""
        faults = {key: count for key, count in self.counts.items() if key[1] != OK and program in (None, key[0])}
        return max(faults, key=lambda key: faults[key], default=(program or OTHERS, "faults"))

    def programs(self) -> dict[str, int]:
        """The calls of each program since V2 has had all of them."""
        calls: dict[str, int] = {}
        for (program, _), count in self.counts.items():
            calls[program] = calls.get(program, 0) + count
        return calls

    def total(self) -> FaultRate:
        """The calls since V2 has had all of them."""
        return FaultRate(sum(self.counts.values()), sum(n for (_, code), n in self.counts.items() if code != OK))

    async def run(self) -> None:
        """Looks once a second until it is cancelled."""
        while True:
            self.look(time.monotonic())
            await asyncio.sleep(LOOK_S)

    def look(self, now: float) -> None:
        """Takes a sample of the counts, if it is time; `now` is by the monotonic clock."""
        if self.is_on and now - self._samples[-1][0] >= SAMPLE_S:
            self._samples.append((now, self.total()))
            while len(self._samples) > 1 and now - self._samples[1][0] >= RECENT_S:
                self._samples.popleft()

    def recent(self) -> FaultRate:
        """The calls of the last `RECENT_S` seconds, or since V2 has had all of them."""
        total, before = self.total(), self._samples[0][1]
        return FaultRate(total.calls - before.calls, total.faults - before.faults)
