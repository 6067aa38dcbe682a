"""The intake of times: a call's latency, in the counts of all calls and in those of its program."""

from typing import Final

from analysis.counters import Counters, add_one
from analysis.evidence import Bench
from analysis.guardrails import OTHER_PROGRAMS, Config, Kind
from analysis.keys import KeyMarks
from analysis.latency import WARM_UP, generation_of
from analysis.latency_bins import bins_of_ratio
from analysis.own_times import OwnTimes
from analysis.program_latency import SHIFTED

_NEVER: Final = 1 << 30
_V1_TIMES: Final = 256
"""Times of V1 that a call without a time of its own draws from."""
_31_BITS: Final = (1 << 31) - 1


class TimeIntake:
    """The marks of keys whose time has counted, and the references that times are compared with."""

    def __init__(self, config: Config, counters: Counters, bench: Bench, floor: int) -> None:
        self._counters: Final = counters
        self._bench: Final = bench
        self._successes = KeyMarks(floor, config.shard, config.shards)
        self._current = floor
        self._v1_times: list[int] = []
        self._noted = 0
        self._drawn = 1
        self._own: dict[str, OwnTimes] = {}
        self._room = config.programs
        margins = [one.program_margin for one in config.guardrails if one.kind is Kind.LATENCY]
        self._margin_bins = bins_of_ratio(next((one for one in margins if one is not None), 1.0))
        self._observed = sum(sum(map(sum, one.values())) for one in counters.latency.values())
        self._next_generation()

    def opened(self, step: int) -> None:
        """Takes note of a new step. The times of programs are kept for two steps."""
        self._current = step
        self._counters.forget_times(step - 1)

    def p99_of(self, program: str) -> int:
        """Returns the fine bin from which a call of a program is slow: the program's own p99, once it has one."""
        own = self._of(program).p99
        return self._p99 if own < 0 else own

    def took(self, step: int, version: int, key_hash: int | None, program: str, fine: int, taken: int) -> None:
        """Counts a time: `taken`, which is `fine` but for the margin that a plan gives V2."""
        if not version:
            self._note_v1_time(fine)
        self._count(step, version, key_hash, self._of(program), fine, taken)

    def took_none(self, step: int, version: int, key_hash: int | None, program: str) -> None:
        """Counts a call that failed or was cold with a time that one of V1's last calls took, drawn at random.

        The time is one of the program's, if V1 has any.

        Leaving such calls out would leave out V2's more often than V1's. Then a counted call's version is no longer a
        coin of probability w, and the missing calls would look like slow ones. A time drawn from V1's distribution is
        what a V2 that is as fast would have. The draws are independent, since the same time for a run of V2's calls
        would be evidence out of nothing; their numbers depend on nothing but the calls, so that a replay repeats them.
        """
        if self._v1_times:
            self._drawn = self._drawn * 1_103_515_245 + 12_345 & _31_BITS
            number, own = self._drawn >> 8, self._of(program)
            fine = own.drawn(number)
            if fine < 0:
                fine = self._v1_times[number % len(self._v1_times)]
            self._count(step, version, key_hash, own, fine, -1)

    def _of(self, program: str) -> OwnTimes:
        """Returns the program's times, or those that all programs beyond the strata share."""
        own = self._own.get(program)
        if own is None:
            if len(self._own) >= self._room and program != OTHER_PROGRAMS:
                return self._of(OTHER_PROGRAMS)
            own = self._own[program] = OwnTimes(program)
            self._freeze(own)
        return own

    def _freeze(self, own: OwnTimes) -> None:
        own.freeze([one for (_, program), one in self._counters.times.items() if program == own.name])

    def _note_v1_time(self, fine: int) -> None:
        if len(self._v1_times) < _V1_TIMES:
            self._v1_times.append(fine)
        else:
            self._v1_times[self._noted % _V1_TIMES] = fine
        self._noted += 1

    def _count(self, step: int, version: int, key_hash: int | None, own: OwnTimes, fine: int, taken: int) -> None:
        """Counts a time; `taken` is the time without the plan's margin, negative if the call has none of its own."""
        first = self._successes.first_copy(key_hash, step)
        if first < 0:
            return
        self._successes.mark(key_hash, step)
        segment = (first, step, self._generation)
        histogram = self._counters.latency.get(segment)
        if histogram is None:
            histogram = self._counters.latency[segment] = {}
        add_one(histogram, fine, version)
        self._bench.latency.dirty.add(segment)
        if own.p99 >= 0:
            self._count_rank(first, step, version, own, fine)
        if taken >= 0 and step + 1 >= self._current:
            self._count_time(step, version, own, taken)
        self._observed += 1
        if self._observed >= self._until:
            self._next_generation()

    def _count_rank(self, first: int, step: int, version: int, own: OwnTimes, fine: int) -> None:
        key = (first, step, own.name)
        histogram = self._counters.ranks.get(key)
        if histogram is None:
            histogram = self._counters.ranks[key] = {}
        add_one(histogram, own.rank(fine), version)
        if version:
            add_one(histogram, SHIFTED + own.rank(fine - self._margin_bins), 1)
        self._bench.program_latency.dirty.add(key)

    def _count_time(self, step: int, version: int, own: OwnTimes, taken: int) -> None:
        key = (step, own.name)
        histogram = self._counters.times.get(key)
        if histogram is None:
            histogram = self._counters.times[key] = {}
        add_one(histogram, taken, version)
        if not version and own.is_due(taken):
            self._freeze(own)

    def _next_generation(self) -> None:
        """Goes to the generation of the latency reference that the number of calls asks for."""
        self._generation = generation_of(self._observed)
        self._until = WARM_UP << self._generation
        reference = self._bench.latency.references.of(self._generation)
        self._p99 = _NEVER if reference is None else reference.p99
