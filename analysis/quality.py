"""Quality: the mean of a program's own metric, on V2 against V1.

Scores are in [0, 1], rounded to a thousandth, and higher is better; `analysis.quality` knows no other scale. Two kinds
of evidence exist:

- A *pair* is one call that both versions have answered (a shadow call). Its value is the difference d = s2 − s1.
- An *organic* call is answered by one version, by V2 with the probability w of its assignment. Its value is the
  weighted score z = (s − c)/w on V2 and −(s − c)/(1 − w) on V1, whose mean is the difference of the versions' means,
  however the traffic drifts (Horvitz & Thompson, JASA 1952). Any c is valid; the average over a few c's is taken,
  since the one nearest to the mean has the least variance.

Both are bounded values with the mean "V2 minus V1", so `analysis.formulas.bets` tests "V2 is not worse by more than the
margin", and for promotion "V2 is worse by the margin". Pairs and organic calls have filtrations of their own, so they
split α. A key (a session) counts once in each step: its calls share one coin, and often their inputs.

Source: Waudby-Smith & Ramdas, JRSS B 86(1), 2024 (see `analysis.formulas.bets`).
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from analysis.formulas.bets import Cell, log_e_above, log_e_below, mean_interval
from analysis.formulas.odds import log_sum_exp
from analysis.verdict import Evidence

RESOLUTION: Final = 1000
"""Scores are multiples of 1/1000."""
MARGIN: Final = 0.02
"""V2's mean may be lower by this much before it counts as worse."""
PROMOTION_MARGIN: Final = 0.05
"""V2 is shown to be not worse if its mean is surely not lower by this much."""
PROGRAMS: Final = 64
"""Programs that have a stratum each, the first that are scored; all others are in the pooled stratum alone."""
_POOLED: Final = 0.5
_SHARES: Final = {"pairs": 0.7, "organic": 0.3}
_CENTRES: Final = (0.1, 0.3, 0.5, 0.7, 0.9)

Scores = dict[int, int]
"""A score, or a difference of scores, in thousandths to the number of times that it was seen."""
OrganicKey = tuple[str, float, int]
"""Program, canary probability at the assignment, version (0 is V1)."""


@dataclass(frozen=True, slots=True)
class QualityRow:
    """One program's scores, or those of all programs together."""

    program: str | None
    v1_mean: float | None
    v2_mean: float | None
    pairs: int
    organic: tuple[int, int]
    interval: tuple[float, float]
    """Always-valid interval of V2's mean minus V1's, from pairs if there are any."""
    log_e: float
    threshold: float
    worse: bool
    not_worse: bool
    """True if there is evidence that V2 is not worse by the promotion's margin."""


class QualityScores:
    """The scores of all programs as counts. They merge by addition."""

    def __init__(self) -> None:
        self.pairs: dict[str, Scores] = {}
        """By program: differences V2 minus V1."""
        self.paired: dict[str, list[int]] = {}
        """By program: sums of the paired scores of V1 and of V2, in thousandths."""
        self.organic: dict[OrganicKey, Scores] = {}

    def pair(self, program: str, v1: float, v2: float) -> None:
        """Counts the two scores of one call."""
        first, second = rounded(v1), rounded(v2)
        _add(self.pairs.setdefault(program, {}), second - first, 1)
        sums = self.paired.setdefault(program, [0, 0])
        sums[0] += first
        sums[1] += second

    def scored(self, program: str, w: float, version: int, score: float) -> None:
        """Counts the score of an organic call; `version` is 0 for V1 and 1 for V2."""
        _add(self.organic.setdefault((program, w, version), {}), rounded(score), 1)

    def merge(self, other: "QualityScores") -> "QualityScores":
        """Returns the sum."""
        merged = QualityScores()
        for part in (self, other):
            for program, pairs in part.pairs.items():
                _add_all(merged.pairs.setdefault(program, {}), pairs)
            for program, sums in part.paired.items():
                known = merged.paired.setdefault(program, [0, 0])
                merged.paired[program] = [known[0] + sums[0], known[1] + sums[1]]
            for key, scores in part.organic.items():
                _add_all(merged.organic.setdefault(key, {}), scores)
        return merged

    def forget(self, which: Callable[[str], bool]) -> None:
        """Drops the scores of the programs that `which` names."""
        self.pairs = {program: one for program, one in self.pairs.items() if not which(program)}
        self.paired = {program: one for program, one in self.paired.items() if not which(program)}
        self.organic = {key: one for key, one in self.organic.items() if not which(key[0])}

    def programs(self) -> list[str]:
        """Returns the programs that have scores, in the order of their first one."""
        return list(dict.fromkeys([*self.pairs, *(program for program, _, _ in self.organic)]))

    def log_e_worse(self, program: str | None, margin: float = MARGIN) -> float:
        """Log e-value against "V2's mean is not lower by more than `margin`", of a program or of all together.

        Pairs and organic calls split α, so each has its share in its log e-value.
        """
        return max(
            math.log(_SHARES["pairs"]) + log_e_below(self._pairs(program), -margin, 1.0),
            math.log(_SHARES["organic"]) + self._organic(program, margin, is_worse=True),
        )

    def log_e_not_worse(self, program: str | None, margin: float = PROMOTION_MARGIN) -> float:
        """Log e-value against "V2's mean is lower by `margin`", of a program or of all together."""
        return max(
            math.log(_SHARES["pairs"]) + log_e_above(self._pairs(program), -margin, -1.0),
            math.log(_SHARES["organic"]) + self._organic(program, margin, is_worse=False),
        )

    def evidence(self, guardrail: str, alpha: float, margin: float = MARGIN) -> Evidence:
        """Returns the evidence that V2's answers are worse: over all programs and by program, α split between them."""
        best, stratum = 0.0, "all"
        for program in (None, *self.programs()[:PROGRAMS]):
            share = _POOLED if program is None else (1 - _POOLED) / PROGRAMS
            if (log_e := self.log_e_worse(program, margin) + math.log(share)) > best:
                best, stratum = log_e, "all" if program is None else f"program={program}"
        return Evidence(guardrail, best, -math.log(alpha), stratum)

    def row(self, program: str | None, alpha: float, promotion_alpha: float = 0.05) -> QualityRow:
        """Returns a program's row, or that of all programs together."""
        pairs, organic = self._pairs(program), self._organic_scores(program)
        count = sum([number for _, number in pairs])
        (v1_mean, _), (v2_mean, _) = self._means(program, pairs, organic)
        share = _POOLED if program is None else (1 - _POOLED) / PROGRAMS
        log_e, threshold = self.log_e_worse(program), -math.log(alpha * share)
        return QualityRow(
            program,
            v1_mean,
            v2_mean,
            count,
            (sum(organic[0].values()), sum(organic[1].values())),
            mean_interval(pairs, -1.0, 1.0, 0.01) if count else self._organic_interval(program),
            log_e,
            threshold,
            log_e >= threshold,
            self.log_e_not_worse(program) >= -math.log(promotion_alpha),
        )

    def means(self, program: str | None) -> tuple[tuple[float | None, int], tuple[float | None, int]]:
        """Returns V1's and V2's mean with the number of scores behind each, of a program or of all together."""
        return self._means(program, self._pairs(program), self._organic_scores(program))

    def _means(
        self, program: str | None, pairs: list[Cell], organic: tuple[Scores, Scores]
    ) -> tuple[tuple[float | None, int], tuple[float | None, int]]:
        count = sum([number for _, number in pairs])
        v1, v2 = (
            _mean_of(sum(one[version] for name, one in self.paired.items() if program in (None, name)), count, scores)
            for version, scores in enumerate(organic)
        )
        return v1, v2

    def to_data(self) -> dict[str, Any]:
        """Returns the counts as plain data for JSON."""
        return {
            "pairs": [[program, sorted(one.items())] for program, one in sorted(self.pairs.items())],
            "paired": [[program, *one] for program, one in sorted(self.paired.items())],
            "organic": [[*key, sorted(one.items())] for key, one in sorted(self.organic.items())],
        }

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> "QualityScores":
        """Returns the counts that `to_data` made `data` of."""
        scores = cls()
        scores.pairs = {program: dict(one) for program, one in data["pairs"]}
        scores.paired = {program: [v1, v2] for program, v1, v2 in data["paired"]}
        scores.organic = {(program, w, version): dict(one) for program, w, version, one in data["organic"]}
        return scores

    def _pairs(self, program: str | None) -> list[Cell]:
        return _cells(one for name, one in self.pairs.items() if program in (None, name))

    def _organic_scores(self, program: str | None) -> tuple[Scores, Scores]:
        both: tuple[Scores, Scores] = {}, {}
        for (name, _, version), scores in self.organic.items():
            if program in (None, name):
                _add_all(both[version], scores)
        return both

    def _weighted(self, program: str | None, centre: float) -> list[tuple[float, list[Cell]]]:
        """The weighted scores of each step, with the bound of their absolute values."""
        steps: dict[float, list[Cell]] = {}
        for (name, w, version), scores in self.organic.items():
            if program in (None, name):
                weight = 1 / w if version else -1 / (1 - w)
                cells = steps.setdefault(w, [])
                cells += [((score / RESOLUTION - centre) * weight, count) for score, count in scores.items()]
        reach = max(centre, 1 - centre)
        return [(reach / min(w, 1 - w), cells) for w, cells in steps.items()]

    def _organic(self, program: str | None, margin: float, *, is_worse: bool) -> float:
        """Log e-value of the organic calls: the average over centres of the product over steps."""
        terms = []
        for centre in _CENTRES:
            log_e = 0.0
            for bound, cells in self._weighted(program, centre):
                log_e += log_e_below(cells, -margin, bound) if is_worse else log_e_above(cells, -margin, -bound)
            terms.append(log_e)
        return log_sum_exp(terms) - math.log(len(terms))

    def _organic_interval(self, program: str | None) -> tuple[float, float]:
        """The interval by the pairs' bets at the middle centre, on the step with the most scores."""
        steps = self._weighted(program, 0.5)
        if not steps:
            return -1.0, 1.0
        bound, cells = max(steps, key=lambda one: sum([count for _, count in one[1]]))
        low, high = mean_interval(cells, -bound, bound, 0.01)
        return max(low, -1.0), min(high, 1.0)


def rounded(score: float) -> int:
    """Converts a score to thousandths. Raises ValueError if it is not from 0 to 1."""
    if not 0.0 <= score <= 1.0:
        raise ValueError(f"a score of {score} is not from 0 to 1")
    return round(score * RESOLUTION)


def _cells(parts: Iterable[Scores]) -> list[Cell]:
    total: Scores = {}
    for one in parts:
        _add_all(total, one)
    return [(value / RESOLUTION, count) for value, count in total.items()]


def _add(scores: Scores, value: int, count: int) -> None:
    scores[value] = scores.get(value, 0) + count


def _add_all(scores: Scores, other: Scores) -> None:
    for value, count in other.items():
        _add(scores, value, count)


def _total(scores: Scores) -> int:
    return sum([value * count for value, count in scores.items()])


def _mean_of(thousandths: int, pairs: int, organic: Scores) -> tuple[float | None, int]:
    count = pairs + sum(organic.values())
    return (thousandths + _total(organic)) / count / RESOLUTION if count else None, count
