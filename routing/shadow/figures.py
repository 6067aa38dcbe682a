"""The figures of a program's shadow calls and scores: what reports show, and what replicas tell each other."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from analysis.odd_ones import Comparisons
from analysis.quality import QualityScores

Snapshot = Mapping[str, Any]
"""One replica's evidence as plain data for JSON."""


@dataclass(slots=True)
class Figures:
    """The figures of one program. They add up."""

    compared: int = 0
    differing: int = 0
    shed: Counter[str] = field(default_factory=Counter)
    """By reason."""
    ms: list[float] = field(default_factory=lambda: [0.0, 0.0])
    """Sums of the time in the program, of V1's and of V2's runs that are compared; shown, not judged."""
    timed: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    """Runs of the metric that gave no score, by reason: never part of the quality."""
    labels: set[str] = field(default_factory=set)
    """The definitions that the figures are about: several if sessions have programs of one id."""

    def add(self, other: "Figures") -> None:
        """Adds the figures of another replica."""
        self.compared += other.compared
        self.differing += other.differing
        self.shed.update(other.shed)
        self.ms = [own + others for own, others in zip(self.ms, other.ms, strict=True)]
        self.timed += other.timed
        self.failures.update(other.failures)
        self.labels |= other.labels

    def to_data(self) -> dict[str, Any]:
        """Returns the figures as plain data for JSON."""
        return {
            "compared": self.compared,
            "differing": self.differing,
            "shed": dict(self.shed),
            "ms": self.ms,
            "timed": self.timed,
            "failures": dict(self.failures),
            "labels": sorted(self.labels),
        }

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> "Figures":
        """Returns the figures that `to_data` made `data` of."""
        return cls(
            data["compared"],
            data["differing"],
            Counter(data["shed"]),
            list(data["ms"]),
            data["timed"],
            Counter(data["failures"]),
            set(data["labels"]),
        )


class Totals:
    """The evidence of some replicas: figures, comparisons and scores of the same programs."""

    def __init__(
        self,
        figures: Mapping[str, Figures] | None = None,
        comparisons: Comparisons | None = None,
        scores: QualityScores | None = None,
    ) -> None:
        self.figures = dict(figures or {})
        self.comparisons = comparisons if comparisons is not None else Comparisons()
        self.scores = scores if scores is not None else QualityScores()

    def copy(self) -> "Totals":
        """Returns the evidence as it is now."""
        return Totals().plus(self)

    def plus(self, other: "Totals") -> "Totals":
        """Returns the sum."""
        figures: dict[str, Figures] = {}
        for part in (self, other):
            for program, one in part.figures.items():
                figures.setdefault(program, Figures()).add(one)
        return Totals(figures, self.comparisons.merge(other.comparisons), self.scores.merge(other.scores))

    def only(self, programs: Iterable[str]) -> "Totals":
        """Returns the evidence of some programs."""
        kept = set(programs)
        comparisons = Comparisons.from_data(self.comparisons.to_data(), self.comparisons.found)
        comparisons.reserve(self.comparisons.active)
        comparisons.forget(lambda program: program not in kept)
        scores = QualityScores().merge(self.scores)
        scores.forget(lambda program: program not in kept)
        return Totals({program: one for program, one in self.figures.items() if program in kept}, comparisons, scores)

    def to_data(self) -> dict[str, Any]:
        """Returns the evidence as plain data for JSON."""
        return {
            "programs": {program: one.to_data() for program, one in self.figures.items()},
            "fields": self.comparisons.to_data(),
            "found": sorted(map(list, self.comparisons.found)),
            "active": self.comparisons.active,
            "scores": self.scores.to_data(),
        }

    @classmethod
    def from_data(cls, data: Snapshot) -> "Totals":
        """Returns the evidence that `to_data` made `data` of."""
        comparisons = Comparisons.from_data(data["fields"], [(program, name) for program, name in data["found"]])
        comparisons.reserve(data["active"])
        figures = {program: Figures.from_data(one) for program, one in data["programs"].items()}
        return cls(figures, comparisons, QualityScores.from_data(data["scores"]))
