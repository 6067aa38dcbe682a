"""Differences between the versions' outputs, told from noise: a field's odd one out.

A call runs on V1 and on V2. Only where a field's values differ does the call run on V1 once more. If V2 is no other
than V1, the three values are exchangeable. Hence the odd one out of the first two, the one that the third value
contradicts, is V1's or V2's with probability 1/2, however noisy the field is. A third value that differs from both, or
fits both, says nothing.

    third value fits V1's alone   V2 is the odd one      evidence of a real difference
    third value fits V2's alone   V1 is the odd one      noise
    neither, or both              nobody is              noise, and no evidence

The test is that of `analysis.formulas.odds` at w = 1/2: V2 is the odd one more often. All fields of all programs
together have the level α. The k-th field that has an odd one at all gets the share 3/log2(k + 7) − 3/log2(k + 8) of it;
these shares add up to 1 over any number of fields. The order depends on the moments of odd ones, and never on whose
they are, so it is known before each coin is tossed, and the union bound holds. A field that never differs uses no part
of α.

Source of the comparison: Twitter's Diffy (2015), which runs V1 twice for every call. Source of the e-process: see
`analysis.formulas.odds`.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Literal

from analysis.formulas.bets import mean_interval
from analysis.formulas.odds import Mixture
from analysis.verdict import Evidence

FieldId = tuple[str, str]
"""A program's id and the name of one of its outputs."""
Odd = Literal["v1", "v2", "none", "unknown"]
"""The odd one of a triple; `unknown` if the call could not run on V1 once more."""

Verdict = Literal["differs", "alike", "unknown"]
ALIKE_SHARE: Final = 0.05
"""A field is alike if surely no larger share of calls really differs: after 149 calls that are all the same."""
ALPHA: Final = 0.01
"""The probability that a report ever calls any field different although V2 is no other than V1."""
_ODDS: Final = (1.5, 2.5, 4.0, 9.0, 30.0, 300.0)
_PRIORS: Final = (0.08, 0.09, 0.1, 0.1, 0.13, 0.5)
_TEST: Final = Mixture(1.0, _ODDS, _PRIORS)


@dataclass(slots=True)
class FieldCounts:
    """The comparisons of one field."""

    compared: int = 0
    differing: int = 0
    v1_odd: int = 0
    v2_odd: int = 0
    no_odd: int = 0
    first: int = 0
    """Position of the field's first odd one among those of all fields; 0 if there is none."""

    def __add__(self, other: "FieldCounts") -> "FieldCounts":
        first = min(self.first or other.first, other.first or self.first)
        return FieldCounts(
            self.compared + other.compared,
            self.differing + other.differing,
            self.v1_odd + other.v1_odd,
            self.v2_odd + other.v2_odd,
            self.no_odd + other.no_odd,
            first,
        )

    @property
    def log_e(self) -> float:
        """Log e-value against "V2 is the odd one no more often than V1"."""
        return field_log_e(self.v1_odd, self.v2_odd)

    @property
    def noise(self) -> int:
        """The differing calls that V1's own noise explains."""
        return min(self.differing, 2 * self.v1_odd + self.no_odd)

    def interval(self, alpha: float) -> tuple[float, float]:
        """Returns the always-valid interval of the share of calls that really differ: V2 odd minus V1 odd."""
        same = self.compared - self.differing + self.no_odd
        low, high = mean_interval([(1.0, self.v2_odd), (-1.0, self.v1_odd), (0.0, same)], -1.0, 1.0, alpha)
        return max(low, 0.0), max(high, 0.0)


@dataclass(frozen=True, slots=True)
class FieldRow:
    """One field of the report."""

    program: str
    field: str
    compared: int
    differing: int
    noise: int
    differs: bool
    interval: tuple[float, float]
    log_e: float
    threshold: float

    @property
    def verdict(self) -> Verdict:
        """The verdict on the field. Few comparisons without a difference show nothing yet."""
        if self.differs:
            return "differs"
        return "alike" if self.interval[1] <= ALIKE_SHARE else "unknown"


class Comparisons:
    """The counts of all fields of all programs. They merge by addition."""

    def __init__(self, fields: Mapping[FieldId, FieldCounts] | None = None) -> None:
        self._fields: dict[FieldId, FieldCounts] = dict(fields or {})
        self._active = max((one.first for one in self._fields.values()), default=0)
        self._found: set[FieldId] = set()

    def __contains__(self, field: FieldId) -> bool:
        return field in self._fields

    def __len__(self) -> int:
        return len(self._fields)

    def same(self, field: FieldId) -> None:
        """Counts a call whose two values are the same."""
        self._of(field).compared += 1

    def differs(self, field: FieldId, odd: Odd) -> None:
        """Counts a call whose two values differ."""
        counts = self._of(field)
        if odd == "unknown":
            # The call says nothing about the rate, so it is in neither count of the interval.
            return
        counts.compared += 1
        counts.differing += 1
        if odd == "none":
            counts.no_odd += 1
            return
        if not counts.first:
            self._active += 1
            counts.first = self._active
        if odd == "v1":
            counts.v1_odd += 1
        else:
            counts.v2_odd += 1
        # A threshold that was crossed is evidence, even if the e-value falls again.
        if counts.log_e >= threshold_of(counts.first):
            self._found.add(field)

    def forget(self, which: Callable[[str], bool]) -> None:
        """Drops the fields of the programs that `which` names: another definition is another question.

        Their shares of α are used up: a field that comes back gets the next one.
        """
        for field in [one for one in self._fields if which(one[0])]:
            del self._fields[field]
            self._found.discard(field)

    @property
    def active(self) -> int:
        """The number of positions that fields with an odd one have used up."""
        return self._active

    @property
    def found(self) -> frozenset[FieldId]:
        """The fields that have crossed their threshold."""
        return frozenset(self._found)

    def reserve(self, active: int) -> None:
        """Leaves the first `active` positions to fields that others have counted before."""
        self._active = max(self._active, active)

    def merge(self, other: "Comparisons") -> "Comparisons":
        """Returns the sum. Fields keep their positions; of two with one position, the second gets the next free one."""
        fields = dict(self._fields)
        for field, counts in other._fields.items():
            fields[field] = fields[field] + counts if field in fields else counts
        ranked = sorted((one.first, field) for field, one in fields.items() if one.first)
        position = 0
        for first, field in ranked:
            position = max(position + 1, first)
            fields[field] = fields[field] + FieldCounts()
            fields[field].first = position
        merged = Comparisons(fields)
        merged._active = max(position, self._active, other._active)
        merged._found = self._found | other._found
        return merged

    def counts(self, program: str | None = None) -> dict[FieldId, FieldCounts]:
        """Returns the counts by field, of one program or of all."""
        return {field: one for field, one in self._fields.items() if program is None or field[0] == program}

    def rows(self, program: str | None = None, most: int | None = None) -> list[FieldRow]:
        """Returns a row for each field, of one program or of all: those that differ come first.

        `most` is the number of rows at the most: the interval of each takes 1 ms.
        """

        def rank(one: tuple[FieldId, FieldCounts]) -> tuple[bool, float, FieldId]:
            field, counts = one
            return not self._differs(field, counts), -counts.log_e, field

        found = sorted(self.counts(program).items(), key=rank)
        return [self._row(field, counts) for field, counts in found[:most]]

    def evidence(self, guardrail: str, alpha: float) -> Evidence:
        """Returns the evidence of the field that is nearest to its threshold, at the level `alpha`."""
        nearest, threshold = self.nearest(), -math.log(alpha)
        if nearest is None:
            return Evidence(guardrail, 0.0, threshold)
        (program, field), counts = nearest
        return Evidence(guardrail, _shared_log_e(counts), threshold, f"field={program}.{field}")

    def nearest(self) -> tuple[FieldId, FieldCounts] | None:
        """Returns the field that is nearest to its threshold, with its counts; None if none speaks against V2."""
        best, nearest = 0.0, None
        for one in self._fields.items():
            _, counts = one
            if counts.first and (log_e := _shared_log_e(counts)) > best:
                best, nearest = log_e, one
        return nearest

    def to_data(self) -> list[list[Any]]:
        """Returns the counts as plain data for JSON."""
        return [
            [*field, one.compared, one.differing, one.v1_odd, one.v2_odd, one.no_odd, one.first]
            for field, one in sorted(self._fields.items())
        ]

    @classmethod
    def from_data(cls, data: Iterable[Iterable[Any]], found: Iterable[FieldId] = ()) -> "Comparisons":
        """Returns the counts that `to_data` made `data` of; those in `found` have crossed their threshold."""
        comparisons = cls({(program, field): FieldCounts(*counts) for program, field, *counts in data})
        comparisons._found = {field for field in found if field in comparisons}
        return comparisons

    def _of(self, field: FieldId) -> FieldCounts:
        counts = self._fields.get(field)
        if counts is None:
            counts = self._fields[field] = FieldCounts()
        return counts

    def _differs(self, field: FieldId, counts: FieldCounts) -> bool:
        return field in self._found or (counts.first > 0 and counts.log_e >= threshold_of(counts.first))

    def _row(self, field: FieldId, counts: FieldCounts) -> FieldRow:
        threshold = threshold_of(counts.first or self._active + 1)
        return FieldRow(
            field[0],
            field[1],
            counts.compared,
            counts.differing,
            counts.noise,
            self._differs(field, counts),
            counts.interval(ALPHA),
            counts.log_e,
            threshold,
        )


@lru_cache(maxsize=65_536)
def field_log_e(v1_odd: int, v2_odd: int) -> float:
    """Log e-value against "V2 is the odd one no more often than V1"."""
    return _TEST.log_e([(0.5, v1_odd, v2_odd)])


def _shared_log_e(counts: FieldCounts) -> float:
    """Log e-value of a field with an odd one, with its share of α in it."""
    return counts.log_e + math.log(share_of(counts.first))


def share_of(position: int) -> float:
    """The share of α of the field that was the `position`-th to have an odd one, from 1 on."""
    return 3 / math.log2(position + 7) - 3 / math.log2(position + 8)


def threshold_of(position: int) -> float:
    """The log e-value at which the field that was the `position`-th to have an odd one differs."""
    return -math.log(ALPHA * share_of(position))
