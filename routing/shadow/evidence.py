"""The evidence of shadow calls and of scores while the service runs: by program, and for the judge's guardrails."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from analysis.formulas.interval import ratio_interval
from analysis.guardrails import Guardrail
from analysis.odd_ones import Comparisons, FieldRow, Odd
from analysis.quality import QualityRow, QualityScores
from analysis.verdict import Detectable, Evidence, Row, Tally
from pools.calls import Program
from routing.rollout.live_judge import LiveJudge
from routing.shadow.comparison import Comparison
from routing.shadow.examples import Example, Examples

MAX_PROGRAMS: Final = 1000
"""Programs that are compared; shadow calls of further ones are shed."""
SHADOW: Final = "shadow"
QUALITY: Final = "quality"


@dataclass(slots=True)
class ProgramEvidence:
    """The figures of one program's shadow calls and scores."""

    comparison: Comparison
    compared: int = 0
    differing: int = 0
    shed: Counter[str] = field(default_factory=Counter)
    """By reason."""
    ms: list[float] = field(default_factory=lambda: [0.0, 0.0])
    """Sums of the time in the program, of V1's and of V2's runs that are compared; shown, not judged."""
    timed: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    """Runs of the metric that gave no score, by reason: never part of the quality."""
    examples: Examples = field(default_factory=Examples)


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
    examples: list[Example]


class ShadowEvidence:
    """All evidence of this replica. A program whose definition changes begins again."""

    def __init__(self, judge: LiveJudge) -> None:
        self.comparisons = Comparisons()
        self.scores = QualityScores()
        self.programs: dict[str, ProgramEvidence] = {}
        """By id: programs of the same id, in several sessions, share theirs."""
        self._judge = judge
        self._revisions: dict[str, int] = {}
        self._v2: dict[str, str] = {}

    def of(self, program: Program) -> ProgramEvidence | None:
        """Returns the figures of a program; None if there are too many programs."""
        known = self._revisions.get(program.key)
        if known is None or known < program.revision:
            self._note_revision(program, is_new=known is None)
        found = self.programs.get(program.id)
        if found is None and len(self.programs) < MAX_PROGRAMS:
            found = self.programs[program.id] = ProgramEvidence(Comparison(program.definition.signature))
        return found

    def note_v2(self, program: Program, on_v2: Program) -> None:
        """Notes V2's definition of a program; another one than before begins again."""
        known = self._v2.get(program.key)
        if known != on_v2.quarantine_key:
            self._v2[program.key] = on_v2.quarantine_key
            if known is not None:
                self._forget(program.id)

    def compared(self, program_id: str, same: Mapping[str, bool], odd: Mapping[str, Odd]) -> None:
        """Counts a call; `odd` has the fields that differ."""
        of_program = self.programs[program_id]
        of_program.compared += 1
        of_program.differing += bool(odd)
        for name, is_same in same.items():
            if is_same:
                self.comparisons.same((program_id, name))
        for name, one in odd.items():
            self.comparisons.differs((program_id, name), one)

    def restart(self) -> None:
        """Begins again with no evidence: other code or another LM is another canary."""
        self.comparisons.forget(lambda _: True)
        self.scores.forget(lambda _: True)
        self.programs.clear()

    def feed(self) -> None:
        """Gives the judge the evidence for its guardrails `shadow` and `quality`."""
        judge = self._judge.judge
        for guardrail in judge.config.guardrails:
            alpha = judge.config.alpha_of(guardrail)
            if guardrail.name == SHADOW:
                evidence = self.comparisons.evidence(SHADOW, alpha)
                judge.feed(evidence, self._shadow_row(guardrail, evidence))
            elif guardrail.name == QUALITY:
                evidence = self.scores.evidence(QUALITY, alpha)
                judge.feed(evidence, self._quality_row(guardrail, evidence))

    def reports(self) -> list[ProgramReport]:
        """Returns a report for each program: those with a field that differs come first."""
        found = [self.report(program_id) for program_id in self.programs]
        return sorted(found, key=lambda one: (not any(row.differs for row in one.fields), -one.differing))

    def report(self, program_id: str) -> ProgramReport:
        """Returns a program's report. Raises KeyError if nothing is known of it."""
        one = self.programs[program_id]
        has_scores = program_id in self.scores.programs()
        return ProgramReport(
            program_id,
            one.compared,
            one.differing,
            dict(one.shed),
            self.comparisons.rows(program_id),
            one.ms[0] / one.timed if one.timed else None,
            one.ms[1] / one.timed if one.timed else None,
            self.scores.row(program_id, self._quality_alpha()) if has_scores else None,
            dict(one.failures),
            list(one.examples),
        )

    def quality(self) -> QualityRow | None:
        """Returns the row of all programs' scores together; None if there are no scores."""
        return self.scores.row(None, self._quality_alpha()) if self.scores.programs() else None

    def _quality_alpha(self) -> float:
        config = self._judge.judge.config
        return next(config.alpha_of(one) for one in config.guardrails if one.name == QUALITY)

    def _note_revision(self, program: Program, *, is_new: bool) -> None:
        if len(self._revisions) >= 10 * MAX_PROGRAMS:
            self._revisions.clear()
            self._v2.clear()
        self._revisions[program.key] = program.revision
        if not is_new:
            self._v2.pop(program.key, None)
            self._forget(program.id)

    def _forget(self, program_id: str) -> None:
        self.programs.pop(program_id, None)
        self.comparisons.forget(lambda one: one == program_id)
        self.scores.forget(lambda one: one == program_id)

    def _shadow_row(self, guardrail: Guardrail, evidence: Evidence) -> Row:
        counts = self.comparisons.counts().values()
        compared = sum(one.compared for one in self.programs.values())
        v1, v2 = sum(one.v1_odd for one in counts), sum(one.v2_odd for one in counts)
        ratio = ratio_interval([(0.5, v1, v2)], self._judge.judge.config.alpha)
        return _row(guardrail, evidence, Tally(compared, v1), Tally(compared, v2), ratio)

    def _quality_row(self, guardrail: Guardrail, evidence: Evidence) -> Row:
        row = self.quality()
        if row is None:
            return _row(guardrail, evidence, Tally(0, 0), Tally(0, 0), (0.0, None))
        ratio: tuple[float, float | None] = (0.0, None)
        if row.v1_mean:
            ratio = (max(0.0, 1 + row.interval[0] / row.v1_mean), max(0.0, 1 + row.interval[1] / row.v1_mean))
        failures = sum(sum(one.failures.values()) for one in self.programs.values())
        v1, v2 = row.pairs + row.organic[0], row.pairs + row.organic[1]
        return _row(guardrail, evidence, Tally(v1, 0), Tally(v2, failures), ratio)


def _row(guardrail: Guardrail, evidence: Evidence, v1: Tally, v2: Tally, ratio: tuple[float, float | None]) -> Row:
    return Row(
        guardrail.name,
        guardrail.action.value,
        evidence.log_e,
        evidence.threshold,
        v1,
        v2,
        ratio,
        evidence.stratum,
        Detectable(2.0, None, None),
    )
