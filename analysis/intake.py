"""The intake: turns calls into counters. Each call costs a few dictionary operations."""

from typing import Final

from analysis.costs import MAX_PROGRAMS, bin_of_cost, generation_of_costs
from analysis.counters import Counters, add, add_one
from analysis.evidence import Bench
from analysis.guardrails import GUARDRAIL_OF, OF_THE_VERSION, OVER_3_P99, OVER_P99, Config
from analysis.incidents import Incidents
from analysis.keys import KeyMarks
from analysis.latency_bins import BINS_OF_3, fine_bin
from analysis.replicas import KeyedFault
from analysis.time_intake import TimeIntake

MAX_KEYED: Final = 10_000
"""Faults of keys that a replica tells the others of."""
MAX_STEPS: Final = 256
"""Steps of a ramp; calls of further ones are no evidence."""
MAX_COUNTED: Final = 16_384
"""Pairs of a step and a program whose calls are counted."""
FELL: Final = -2
"""Instead of a step: the ramp has fallen."""


class Intake:
    """The counters of one ramp, and the marks that decide if an event counts."""

    def __init__(self, config: Config, counters: Counters) -> None:
        if counters.steps:  # a new start copy, since the marks of keys are lost
            w, restarts = counters.steps[-1]
            counters.steps.append((w, restarts + 1))
        self.counters: Final = counters
        self.bench: Final = Bench(config, counters)
        self.current = len(counters.steps) - 1
        self._index = {w: index for index, (w, _) in enumerate(counters.steps)}
        self._stragglers = config.stragglers
        self._lower = 0
        self._m0 = config.m0
        floor = max(self.current, 0)
        self._units = KeyMarks(floor, config.shard, config.shards)
        self._costs = KeyMarks(floor, config.shard, config.shards)
        self._costly: set[str] = set()
        self._unpriced: set[str] = set()
        """Programs that have had a call of unknown cost."""
        self._costs_seen = sum(sum(map(sum, one.values())) for one in counters.costs.values())
        self._faults = {name: KeyMarks(floor) for name in self.bench.faults}
        self._faults["tail"] = KeyMarks(floor, config.shard, config.shards)
        self._incidents = Incidents()
        self._times = TimeIntake(config, counters, self.bench, floor)
        self.keyed: list[KeyedFault] = []
        """Faults of keys that count, so that a sum over replicas counts each key once."""

    def assigned(self, w: float, arm: str, key_hash: int | None) -> int:
        """Counts an assignment; returns the call's step, -1 if the call is no evidence, or `FELL`."""
        step = self._index.get(w, -1)
        if step != self.current or step < 0:
            step = self._other_step(w, step)
            if step < 0:
                return step
        elif self._lower:
            self._lower = 0
        first = self._units.first_copy(key_hash, step)
        if first >= 0:
            self._units.mark(key_hash, step)
            add_one(self.counters.units, (first, step), 1 if arm == "v2" else 0)
        return step

    def assigned_at_step(self, v1: int, v2: int) -> None:
        """Counts assignments of calls without a key at the current step, as `assigned` does one after another."""
        self._lower = 0
        for version, calls in enumerate((v1, v2)):
            if calls:
                add(self.counters.units, (0, self.current), version, calls)

    def ended(
        self,
        t: float,
        w: float,
        arm: str,
        key_hash: int | None,
        program: str,
        outcome: str,
        ms: float,
        *,
        is_cold: bool,
        cost: float | None = 0.0,
    ) -> str | None:
        """Counts the end of a call; returns the guardrail that has a new event of V2's."""
        step = self._index.get(w, -1)
        if step < 0:
            return None
        version = 1 if arm == "v2" else 0
        self._count(step, version, program, outcome)
        if cost is None or self._costly or cost > 0.0:
            self._spent(step, version, key_hash, program, cost)
        if outcome == "ok" and not is_cold and 0.0 <= ms < 1e12:
            return self._succeeded(t, step, version, key_hash, program, ms)
        self._times.took_none(step, version, key_hash, program)
        guardrail = GUARDRAIL_OF.get(outcome)
        return None if guardrail is None else self.fault(guardrail, t, step, version, key_hash, outcome, program)

    def _count(self, step: int, version: int, program: str, outcome: str) -> None:
        counters, key = self.counters, (step, program)
        add_one(counters.calls, step, version)
        if key in counters.programs or len(counters.programs) < MAX_COUNTED:
            add_one(counters.programs, key, version)
            if outcome != "ok" and GUARDRAIL_OF.get(outcome) in OF_THE_VERSION:
                add_one(counters.faulty, key, version)

    def attempt_failed(self, t: float, w: float, arm: str, key_hash: int | None, program: str, code: str) -> str | None:
        """Counts a fault without the end of a call; returns the guardrail that has a new event of V2's."""
        step, guardrail = self._index.get(w, -1), GUARDRAIL_OF.get(code)
        if step < 0 or guardrail is None:
            return None
        return self.fault(guardrail, t, step, 1 if arm == "v2" else 0, key_hash, code, program)

    def fault(
        self, guardrail: str, t: float, step: int, version: int, key_hash: int | None, code: str, program: str
    ) -> str | None:
        """Counts a fault if it is the key's first one of its kind, and the first of its incident."""
        evidence = self.bench.faults.get(guardrail)
        if evidence is None:
            return None
        add_one(self.counters.faults, (guardrail, step), version)
        marks = self._faults[guardrail]
        first = marks.first_copy(key_hash, step)
        if first < 0 or not self._incidents.is_new(guardrail, t):
            return None
        marks.mark(key_hash, step)
        if key_hash is not None and len(self.keyed) < MAX_KEYED:
            self.keyed.append((guardrail, key_hash, self.counters.steps[step][0], first, step, code, program, version))
        add_one(self.counters.events, (guardrail, first, step, code, program), version)
        evidence.add(first, step, code, program, version)
        return guardrail if version else None

    def _succeeded(
        self, t: float, step: int, version: int, key_hash: int | None, program: str, ms: float
    ) -> str | None:
        taken = fine_bin(ms)
        fine = fine_bin(ms / self._m0) if version and self._m0 != 1.0 else taken
        p99 = self._times.p99_of(program)
        self._times.took(step, version, key_hash, program, fine, taken)
        if fine < p99:
            return None
        code = OVER_3_P99 if fine >= p99 + BINS_OF_3 else OVER_P99
        return self.fault("tail", t, step, version, key_hash, code, program)

    def _spent(self, step: int, version: int, key_hash: int | None, program: str, cost: float | None) -> None:
        """Counts the cost of a call if its program has had one before, whatever the version was.

        A program with a call of unknown cost counts no more, on either version: to leave out the calls of one version
        alone would make it the cheaper one.
        """
        if cost is None:
            if len(self._unpriced) < MAX_PROGRAMS:
                self._unpriced.add(program)
            return
        if program in self._unpriced or not 0.0 <= cost < 1e12:
            return
        if program not in self._costly:
            if cost > 0.0 and len(self._costly) < MAX_PROGRAMS:
                self._costly.add(program)
            return
        first = self._costs.first_copy(key_hash, step)
        if first < 0:
            return
        self._costs.mark(key_hash, step)
        segment = (first, step, generation_of_costs(self._costs_seen))
        self._costs_seen += 1
        histogram = self.counters.costs.get(segment)
        if histogram is None:
            histogram = self.counters.costs[segment] = {}
        add_one(histogram, bin_of_cost(cost), version)
        self.bench.costs.dirty.add(segment)

    def _other_step(self, w: float, step: int) -> int:
        """Opens the next step, or finds that the call is a straggler of an earlier one, or that the ramp has fallen."""
        steps = self.counters.steps
        if not steps or w > steps[-1][0]:
            if not 0.0 < w < 1.0 or len(steps) >= MAX_STEPS:
                return -1
            steps.append((w, 0))
            self.current = self._index[w] = len(steps) - 1
            self._times.opened(self.current)
            self._lower = 0
            return self.current
        self._lower += 1
        return FELL if self._lower > self._stragglers else step
