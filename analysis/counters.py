"""Counters: everything that the evidence is computed from. They merge by addition."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from analysis.ramp import StepId

EventKey = tuple[str, int, int, str, str]
"""Guardrail, first start copy that counts the event, step, error code, program."""
UnitKey = tuple[int, int]
"""First start copy that counts the unit, and the step."""
SegmentKey = tuple[int, int, int]
"""First start copy, step, generation of the latency reference."""
RankKey = tuple[int, int, str]
"""First start copy, step, program."""
Histogram = dict[int, list[int]]
"""Fine latency bin to the two versions' counts."""

_Key = TypeVar("_Key")


class Counters:
    """Counts by step and version, since w is constant within a step.

    Each `list[int]` has two items, V1's count and V2's. A step is an index into `steps`, which are in the ramp's order.
    """

    __slots__ = (
        "calls",
        "costs",
        "events",
        "faults",
        "faulty",
        "latency",
        "programs",
        "ranks",
        "steps",
        "times",
        "units",
    )

    def __init__(self) -> None:
        self.steps: list[StepId] = []
        self.calls: dict[int, list[int]] = {}
        """By step: every call that ended."""
        self.programs: dict[tuple[int, str], list[int]] = {}
        """By step and program: the same calls."""
        self.faulty: dict[tuple[int, str], list[int]] = {}
        """By step and program: those of them that ended with a fault of the version's own."""
        self.faults: dict[tuple[str, int], list[int]] = {}
        """By guardrail and step: every fault, repeated keys and incidents too."""
        self.events: dict[EventKey, list[int]] = {}
        """Faults that are evidence: the first of a key, one for each incident."""
        self.units: dict[UnitKey, list[int]] = {}
        """Assignments of units: calls without a key, and first calls of keys."""
        self.latency: dict[SegmentKey, Histogram] = {}
        """First successful calls of keys."""
        self.costs: dict[SegmentKey, Histogram] = {}
        """First calls of keys, of programs that have had a cost, by fine cost bin."""
        self.ranks: dict[RankKey, Histogram] = {}
        """The calls of `latency` by their rank among V1's calls of the program (`analysis.own_times`)."""
        self.times: dict[tuple[int, str], Histogram] = {}
        """By step and program: the times of first successful calls of keys, at the newest two steps, by fine bin."""

    def merge(self, other: "Counters") -> "Counters":
        """Returns the sum. The operation is associative and commutative, and empty counters are its zero."""
        merged = Counters()
        merged.steps = sorted(set(self.steps) | set(other.steps))
        for part in (self, other):
            merged._add(part, [merged.steps.index(step) for step in part.steps])
        return merged

    def _add(self, part: "Counters", index: list[int]) -> None:
        _add_to(self.calls, part.calls, lambda step: index[step])
        _add_to(self.programs, part.programs, lambda key: (index[key[0]], key[1]))
        _add_to(self.faulty, part.faulty, lambda key: (index[key[0]], key[1]))
        _add_to(self.faults, part.faults, lambda key: (key[0], index[key[1]]))
        _add_to(self.events, part.events, lambda key: (key[0], index[key[1]], index[key[2]], key[3], key[4]))
        _add_to(self.units, part.units, lambda key: (index[key[0]], index[key[1]]))
        for mine, parts in ((self.latency, part.latency), (self.costs, part.costs)):
            for (first, step, generation), histogram in parts.items():
                _add_to(mine.setdefault((index[first], index[step], generation), {}), histogram, lambda fine: fine)
        for (first, step, program), histogram in part.ranks.items():
            _add_to(self.ranks.setdefault((index[first], index[step], program), {}), histogram, lambda rank: rank)
        for (step, program), histogram in part.times.items():
            _add_to(self.times.setdefault((index[step], program), {}), histogram, lambda fine: fine)

    def forget_times(self, step: int) -> None:
        """Forgets the times of programs at the steps before `step`."""
        self.times = {key: histogram for key, histogram in self.times.items() if key[0] >= step}

    def v2_programs(self) -> dict[str, int]:
        """Returns V2's calls of each program."""
        calls: dict[str, int] = {}
        for (_, program), pair in self.programs.items():
            if pair[1]:
                calls[program] = calls.get(program, 0) + pair[1]
        return calls

    def without_events(self) -> "Counters":
        """Returns what a replica may add to its own counters: fault events are rows, unique by key, in the store."""
        rest = Counters()
        rest._add(self, list(range(len(self.steps))))
        rest.steps = list(self.steps)
        rest.events = {key: pair for key, pair in rest.events.items() if key[0] == "tail"}
        return rest

    def to_data(self) -> dict[str, Any]:
        """Returns the counters as plain data for JSON."""
        return {
            "steps": [list(step) for step in self.steps],
            "calls": [[step, *pair] for step, pair in sorted(self.calls.items())],
            "programs": [[*key, *pair] for key, pair in sorted(self.programs.items())],
            "faulty": [[*key, *pair] for key, pair in sorted(self.faulty.items())],
            "faults": [[*key, *pair] for key, pair in sorted(self.faults.items())],
            "events": [[*key, *pair] for key, pair in sorted(self.events.items())],
            "units": [[*key, *pair] for key, pair in sorted(self.units.items())],
            "latency": _segments_data(self.latency),
            "costs": _segments_data(self.costs),
            "ranks": [[*key, _histogram_data(one)] for key, one in sorted(self.ranks.items())],
            "times": [[*key, _histogram_data(one)] for key, one in sorted(self.times.items())],
        }

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> "Counters":
        """Returns the counters that `to_data` made `data` of.

        Raises:
            ValueError: `data` is something else.

        """
        counters = cls()
        try:
            counters.steps = [(float(w), int(restarts)) for w, restarts in data["steps"]]
            counters.calls = {step: [v1, v2] for step, v1, v2 in data["calls"]}
            told = data.get("programs", [])  # an older replica counts calls by no program
            counters.programs = {(step, program): [v1, v2] for step, program, v1, v2 in told}
            counters.faulty = {(step, program): [v1, v2] for step, program, v1, v2 in data.get("faulty", [])}
            counters.faults = {(name, step): [v1, v2] for name, step, v1, v2 in data["faults"]}
            counters.events = {
                (name, first, step, code, program): [v1, v2]
                for name, first, step, code, program, v1, v2 in data["events"]
            }
            counters.units = {(first, step): [v1, v2] for first, step, v1, v2 in data["units"]}
            counters.latency = _segments(data["latency"])
            counters.costs = _segments(data.get("costs", []))  # a replica that knows no costs writes none
            ranks, times = data.get("ranks", []), data.get("times", [])  # an older replica has none by program
            counters.ranks = {(first, step, program): _histogram(one) for first, step, program, one in ranks}
            counters.times = {(step, program): _histogram(one) for step, program, one in times}
        except (KeyError, TypeError) as error:
            raise ValueError(f"these are no counters: {error}") from None
        return counters


def add_one(table: dict[_Key, list[int]], key: _Key, version: int) -> None:
    """Counts one of `version` (0 is V1, 1 is V2)."""
    add(table, key, version, 1)


def add(table: dict[_Key, list[int]], key: _Key, version: int, count: int) -> None:
    """Counts so many of `version`."""
    pair = table.get(key)
    if pair is None:
        pair = table[key] = [0, 0]
    pair[version] += count


def total(pairs: Iterable[list[int]]) -> tuple[int, int]:
    """Both versions' sums."""
    v1 = v2 = 0
    for pair in pairs:
        v1 += pair[0]
        v2 += pair[1]
    return v1, v2


def _segments_data(segments: dict[SegmentKey, Histogram]) -> list[Any]:
    return [[*key, _histogram_data(histogram)] for key, histogram in sorted(segments.items())]


def _segments(data: Any) -> dict[SegmentKey, Histogram]:
    return {(first, step, generation): _histogram(histogram) for first, step, generation, histogram in data}


def _histogram_data(histogram: Histogram) -> list[list[int]]:
    return [[fine, *pair] for fine, pair in sorted(histogram.items())]


def _histogram(data: Any) -> Histogram:
    return {fine: [v1, v2] for fine, v1, v2 in data}


def _add_to(table: dict[_Key, list[int]], other: Mapping[_Key, list[int]], renamed: Callable[[_Key], _Key]) -> None:
    for key, (v1, v2) in other.items():
        pair = table.setdefault(renamed(key), [0, 0])
        pair[0] += v1
        pair[1] += v2
