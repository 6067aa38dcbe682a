"""The intake: turns calls into counters. Each call costs a few dictionary operations."""

from typing import Final

from analysis.costs import MAX_PROGRAMS, bin_of_cost, generation_of_costs
from analysis.counters import Counters, add, add_one
from analysis.evidence import Bench
from analysis.guardrails import GUARDRAIL_OF, OF_THE_VERSION, OVER_3_P99, OVER_P99, Config
from analysis.incidents import Incidents
from analysis.keys import KeyMarks
from analysis.latency import WARM_UP, generation_of
from analysis.latency_bins import fine_bin
from analysis.replicas import KeyedFault

MAX_KEYED: Final = 10_000
"""Faults of keys that a replica tells the others of."""
MAX_STEPS: Final = 256
"""Steps of a ramp; calls of further ones are no evidence."""
MAX_COUNTED: Final = 16_384
"""Pairs of a step and a program whose calls are counted."""
FELL: Final = -2
"""Instead of a step: the ramp has fallen."""
_NEVER: Final = 1 << 30
_V1_TIMES: Final = 256
"""Times of V1 that a call without a time of its own draws from."""
_31_BITS: Final = (1 << 31) - 1


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
        self._v1_times: list[int] = []
        self._drawn = 1
        self._noted = 0
        self._m0 = config.m0
        floor = max(self.current, 0)
        self._units = KeyMarks(floor, config.shard, config.shards)
        self._successes = KeyMarks(floor, config.shard, config.shards)
        self._costs = KeyMarks(floor, config.shard, config.shards)
        self._costly: set[str] = set()
        self._unpriced: set[str] = set()
        """Programs that have had a call of unknown cost."""
        self._costs_seen = sum(sum(map(sum, one.values())) for one in counters.costs.values())
        self._faults = {name: KeyMarks(floor) for name in self.bench.faults}
        self._faults["tail"] = KeyMarks(floor, config.shard, config.shards)
        self._incidents = Incidents()
        self.keyed: list[KeyedFault] = []
        """Faults of keys that count, so that a sum over replicas counts each key once."""
        self._observed = sum(sum(map(sum, one.values())) for one in counters.latency.values())
        self._next_generation()

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
        self._has_no_time(step, version, key_hash)
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
        fine = fine_bin(ms / self._m0 if version else ms)
        if not version:
            self._note_v1_time(fine)
        self._count_latency(step, version, key_hash, fine)
        if fine < self._p99:
            return None
        code = OVER_3_P99 if fine >= self._p99_of_3 else OVER_P99
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

    def _has_no_time(self, step: int, version: int, key_hash: int | None) -> None:
        """Counts a call that failed or was cold with a time that one of V1's last calls took, drawn at random.

        Leaving such calls out would leave out V2's more often than V1's. Then a counted call's version is no longer a
        coin of probability w, and the missing calls would look like slow ones. A time drawn from V1's distribution is
        what a V2 that is as fast would have. The draws are independent, since the same time for a run of V2's calls
        would be evidence out of nothing; their numbers depend on nothing but the calls, so that a replay repeats them.
        """
        if self._v1_times:
            self._drawn = self._drawn * 1_103_515_245 + 12_345 & _31_BITS
            fine = self._v1_times[(self._drawn >> 8) % len(self._v1_times)]
            self._count_latency(step, version, key_hash, fine)

    def _note_v1_time(self, fine: int) -> None:
        if len(self._v1_times) < _V1_TIMES:
            self._v1_times.append(fine)
        else:
            self._v1_times[self._noted % _V1_TIMES] = fine
        self._noted += 1

    def _count_latency(self, step: int, version: int, key_hash: int | None, fine: int) -> None:
        first = self._successes.first_copy(key_hash, step)
        if first < 0:
            return
        self._successes.mark(key_hash, step)
        segment = (first, step, self._generation)
        histogram = self.counters.latency.get(segment)
        if histogram is None:
            histogram = self.counters.latency[segment] = {}
        add_one(histogram, fine, version)
        self.bench.latency.dirty.add(segment)
        self._observed += 1
        if self._observed >= self._until:
            self._next_generation()

    def _next_generation(self) -> None:
        """Goes to the generation of the latency reference that the number of calls asks for."""
        self._generation = generation_of(self._observed)
        self._until = WARM_UP << self._generation
        reference = self.bench.latency.references.of(self._generation)
        self._p99 = _NEVER if reference is None else reference.p99
        self._p99_of_3 = _NEVER if reference is None else reference.p99_of_3

    def _other_step(self, w: float, step: int) -> int:
        """Opens the next step, or finds that the call is a straggler of an earlier one, or that the ramp has fallen."""
        steps = self.counters.steps
        if not steps or w > steps[-1][0]:
            if not 0.0 < w < 1.0 or len(steps) >= MAX_STEPS:
                return -1
            steps.append((w, 0))
            self.current = self._index[w] = len(steps) - 1
            self._lower = 0
            return self.current
        self._lower += 1
        return FELL if self._lower > self._stragglers else step
