"""Reports on shadow calls, of a state of the evidence: for a thread, since clients choose how many fields there are."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from analysis.odd_ones import FieldRow
from analysis.quality import QualityRow
from routing.shadow.examples import Example
from routing.shadow.figures import Totals


@dataclass(frozen=True, slots=True)
class ProgramReport:
    """The figures of one program for a report."""

    program_id: str
    compared: int
    differing: int
    shed: Mapping[str, int]
    fields: list[FieldRow]
    v1_ms: float | None
    v2_ms: float | None
    quality: QualityRow | None
    metric_failures: Mapping[str, int]
    examples: Sequence[Example]


@dataclass(frozen=True, slots=True)
class OverallReport:
    """The figures of all programs together; what differs comes first."""

    programs: list[str]
    compared: int
    differing: int
    shed: Mapping[str, int]
    fields: list[FieldRow]
    quality: QualityRow | None
    metric_failures: Mapping[str, int]
    examples: list[tuple[str, Example]]
    """With the programs' ids."""


class ShadowReports:
    """The evidence as it was at one moment. Each interval takes 1 ms to compute."""

    def __init__(
        self,
        totals: Totals,
        examples: Mapping[str, Sequence[Example]],
        quality_alpha: float,
        rates: Mapping[str, float],
    ) -> None:
        self.rates = rates
        """Comparisons per second of each program, as far as they are known."""
        self._totals = totals
        self._examples = examples
        self._quality_alpha = quality_alpha

    @property
    def compared(self) -> int:
        """The number of calls that have been compared."""
        return sum(one.compared for one in self._totals.figures.values())

    def of(self, program_id: str) -> ProgramReport:
        """Returns a program's report. Raises KeyError if nothing is known of the program."""
        one = self._totals.figures[program_id]
        return ProgramReport(
            program_id,
            one.compared,
            one.differing,
            dict(one.shed),
            self._totals.comparisons.rows(program_id),
            one.ms[0] / one.timed if one.timed else None,
            one.ms[1] / one.timed if one.timed else None,
            self._quality(program_id),
            dict(one.failures),
            self._examples.get(program_id, ()),
        )

    def overall(self, most_fields: int) -> OverallReport:
        """Returns the report of all programs, with `most_fields` at the most."""
        fields = self._totals.comparisons.rows(most=most_fields)
        differ = {row.program for row in fields if row.differs}
        figures = sorted(self._totals.figures.items(), key=lambda one: (one[0] not in differ, -one[1].differing))
        shed, failures = Counter[str](), Counter[str]()
        for _, one in figures:
            shed.update(one.shed)
            failures.update(one.failures)
        return OverallReport(
            [program_id for program_id, _ in figures],
            self.compared,
            sum(one.differing for _, one in figures),
            shed,
            fields,
            self._quality(None),
            failures,
            [(program_id, example) for program_id, _ in figures for example in self._examples.get(program_id, ())],
        )

    def _quality(self, program_id: str | None) -> QualityRow | None:
        """The row of a program's scores, or of all scores; None if there are none."""
        scored = self._totals.scores.programs()
        is_scored = bool(scored) if program_id is None else program_id in scored
        return self._totals.scores.row(program_id, self._quality_alpha) if is_scored else None
