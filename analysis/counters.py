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
Histogram = dict[int, list[int]]
"""Fine latency bin to the two versions' counts."""

_Key = TypeVar("_Key")


class Counters:
    """Counts by step and version, since w is constant within a step.

    Each `list[int]` has two items, V1's count and V2's. A step is an index into `steps`, which are in the ramp's order.
    """

    __slots__ = ("calls", "costs", "events", "faults", "faulty", "latency", "programs", "steps", "units")

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
    return [
        [*key, [[fine, *pair] for fine, pair in sorted(histogram.items())]]
        for key, histogram in sorted(segments.items())
    ]


def _segments(data: Any) -> dict[SegmentKey, Histogram]:
    return {
        (first, step, generation): {fine: [v1, v2] for fine, v1, v2 in histogram}
        for first, step, generation, histogram in data
    }


def _add_to(table: dict[_Key, list[int]], other: Mapping[_Key, list[int]], renamed: Callable[[_Key], _Key]) -> None:
    for key, (v1, v2) in other.items():
        pair = table.setdefault(renamed(key), [0, 0])
        pair[0] += v1
        pair[1] += v2
