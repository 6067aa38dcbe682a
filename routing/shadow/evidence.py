"""The evidence of shadow calls and of scores while the service runs: by program, and for the judge's guardrails."""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from analysis.formulas.interval import ratio_interval
from analysis.guardrails import QUALITY, Guardrail
from analysis.odd_ones import Comparisons, Odd
from analysis.quality import QualityRow, QualityScores
from analysis.verdict import Detectable, Evidence, Row, Tally
from pools.calls import Program
from routing.catalog.programs import CataloguedProgram
from routing.rollout.live_judge import LiveJudge
from routing.rollout.reasons import odd_ones_reason, scores_reason
from routing.shadow.comparison import Comparison
from routing.shadow.examples import Example, Examples
from routing.shadow.figures import Figures, Totals
from routing.shadow.reports import ShadowReports

MAX_PROGRAMS: Final = 1000
"""Programs that are compared; shadow calls of further ones are shed."""
MAX_FIELDS: Final = 8000
"""Outputs of all programs together that are compared, for which the judge's evidence takes 10 ms."""
MAX_LABELS: Final = 100
"""Definitions that the figures of one program's id may be about before they are told to no other replica."""
SHADOW: Final = "shadow"


@dataclass(slots=True, kw_only=True)
class ProgramEvidence(Figures):
    """The figures of one program's shadow calls and scores on this replica."""

    comparison: Comparison
    examples: Examples = field(default_factory=Examples)


class ShadowEvidence:
    """The evidence of this replica, and what others have told. A program whose definition changes begins again."""

    def __init__(
        self, judge: LiveJudge, catalogued: Callable[[str], CataloguedProgram | None] = lambda _: None
    ) -> None:
        """Asks `catalogued` for the program of an id that belongs to no session, as it is defined now."""
        self.comparisons = Comparisons()
        self.scores = QualityScores()
        self.programs: dict[str, ProgramEvidence] = {}
        """By id: programs of the same id, in several sessions, share theirs."""
        self._judge = judge
        self._catalogued = catalogued
        self._revisions: dict[str, int] = {}
        self._v2: dict[str, str] = {}
        self._labels: dict[tuple[str, str], str] = {}
        self._heard: Sequence[Totals] = ()
        self._others: Totals | None = None
        """The part of what others have told that is about the same definitions."""
        self.restarts = 0
        self.definitions_noted = 0
        """Counts the changes of what is known about definitions: what others told may fit now, and has not before."""

    @property
    def shard(self) -> tuple[int, int]:
        """The share of the keys that counts on this replica, and the number of shares."""
        config = self._judge.judge.config
        return config.shard, config.shards

    def of(self, program: Program) -> ProgramEvidence | None:
        """Returns the figures of a program; None if there are too many programs."""
        known = self._revisions.get(program.key)
        if known is None or known < program.revision:
            self._note_revision(program, is_new=known is None)
        if isinstance(program, CataloguedProgram):
            self.note_v2(program, program.v2 or program)
        found = self.programs.get(program.id)
        if found is None and (comparison := self._comparison_of(program)) is not None:
            found = self.programs[program.id] = ProgramEvidence(comparison=comparison)
        if found is not None and isinstance(program, CataloguedProgram):
            self._note_label(found, program)
        return found

    def _comparison_of(self, program: Program) -> Comparison | None:
        """Makes the comparison of a new program; None if there is no room for its fields."""
        comparison = Comparison(program.definition.signature)
        fields = sum(len(one.comparison) for one in self.programs.values())
        has_room = len(self.programs) < MAX_PROGRAMS and fields + len(comparison) <= MAX_FIELDS
        return comparison if has_room else None

    def note_v2(self, program: Program, on_v2: Program) -> None:
        """Notes V2's definition of a program; another one than before begins again."""
        known = self._v2.get(program.key)
        if known != on_v2.quarantine_key:
            self._v2[program.key] = on_v2.quarantine_key
            if known is not None:
                self._forget(program.id)

    def compared(self, program_id: str, same: Mapping[str, bool | None], odd: Mapping[str, Odd]) -> None:
        """Counts a call; `odd` has the fields that differ. A field that cannot be compared is no evidence."""
        of_program = self.programs[program_id]
        of_program.compared += bool(odd) or None not in same.values()
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
        self._heard, self._others = (), None
        self.restarts += 1
        self.definitions_noted += 1

    # --- other replicas, and runs before a restart

    def hear(self, heard: Sequence[Totals]) -> None:
        """Takes the evidence of others in place of what they said before.

        It counts for programs whose definitions are those that this replica has, too.
        """
        self._heard = heard
        for one in heard:
            self.comparisons.reserve(one.comparisons.active)
        accepted = [one.only(filter(lambda program: self._fits(program, one), one.figures)) for one in heard]
        self._others = _sum(accepted)
        if self._others is not None or self.programs:
            self.feed()

    def own(self) -> Totals:
        """Returns the evidence of this replica."""
        return Totals(self.programs, self.comparisons, self.scores)

    def inherited(self) -> Totals:
        """Returns all evidence, with that of programs which no call has asked for since it was heard."""
        kept = [one.only(filter(lambda program: self._is_kept(program, one), one.figures)) for one in self._heard]
        inherited = _sum(kept)
        return self.own() if inherited is None else self.own().plus(inherited)

    def _totals(self) -> Totals:
        return self.own() if self._others is None else self.own().plus(self._others)

    def _fits(self, program_id: str, told: Totals) -> bool:
        """Tells if figures are about definitions that are those of this replica's own figures, or of the catalogue."""
        labels = told.figures[program_id].labels
        if not labels or len(labels) > MAX_LABELS:
            return False
        own = self.programs.get(program_id)
        if own is not None and labels <= own.labels:
            return True
        program = self._catalogued(program_id)
        return program is not None and labels == {self._label(program)}

    def _is_kept(self, program_id: str, told: Totals) -> bool:
        return program_id not in self.programs or self._fits(program_id, told)

    def _note_label(self, found: ProgramEvidence, program: CataloguedProgram) -> None:
        """Notes the definitions of a call, unless it began before the newest one."""
        if program.revision != self._revisions[program.key] or len(found.labels) > MAX_LABELS:
            return
        if (label := self._label(program)) not in found.labels:
            found.labels.add(label)
            self.definitions_noted += 1
            others = self._others
            if others is not None and program.id in others.figures and not self._fits(program.id, others):
                self._forget_others(program.id)

    def _label(self, program: CataloguedProgram) -> str:
        """Returns a digest of the definitions by which V1 and V2 run a program: the same on every replica."""
        on_v2 = program.v2 or program
        key = program.quarantine_key, on_v2.quarantine_key
        label = self._labels.get(key)
        if label is None:
            if len(self._labels) >= 10 * MAX_PROGRAMS:
                self._labels.clear()
            data = msgspec.json.encode((program.definition, on_v2.definition))
            label = self._labels[key] = hashlib.sha256(data).hexdigest()[:16]
        return label

    # --- what is asked

    def feed(self) -> None:
        """Gives the judge the evidence for its guardrails `shadow` and `quality`."""
        judge, totals = self._judge, self._totals()
        config = judge.judge.config
        for guardrail in config.guardrails:
            alpha = config.alpha_of(guardrail)
            if guardrail.name == SHADOW:
                evidence = totals.comparisons.evidence(SHADOW, alpha)
                judge.feed(
                    evidence,
                    self._shadow_row(totals, guardrail, evidence),
                    lambda: odd_ones_reason(totals.comparisons),
                )
            elif guardrail.name == QUALITY:
                evidence = totals.scores.evidence(QUALITY, alpha)
                judge.feed(
                    evidence,
                    self._quality_row(totals, guardrail, evidence),
                    lambda: scores_reason(totals.scores),
                    self._not_worse(totals),
                )

    def _not_worse(self, totals: Totals) -> Evidence:
        threshold = -math.log(self._judge.judge.config.promotion_alpha)
        log_e = totals.scores.log_e_not_worse(None) if totals.scores.programs() else 0.0
        return Evidence(QUALITY, log_e, threshold)

    def reports(self, examples: Mapping[str, Sequence[Example]] | None = None) -> ShadowReports:
        """Returns what reports are made of, as it is now: a thread may make them.

        Takes the `examples` of all replicas by program, if they are known; else those of this replica are shown.
        """
        shown = self.examples() if examples is None else examples
        return ShadowReports(self._totals().copy(), shown, self._quality_alpha())

    def examples(self) -> dict[str, list[Example]]:
        """Returns the examples of this replica by program, those with the most differing fields first."""
        return {program: list(one.examples) for program, one in self.programs.items()}

    def _quality(self, totals: Totals) -> QualityRow | None:
        return totals.scores.row(None, self._quality_alpha()) if totals.scores.programs() else None

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
        self.definitions_noted += 1
        self.programs.pop(program_id, None)
        self._forget_others(program_id)
        self.comparisons.forget(lambda one: one == program_id)
        self.scores.forget(lambda one: one == program_id)

    def _forget_others(self, program_id: str) -> None:
        if self._others is not None:
            self._others = self._others.only(self._others.figures.keys() - {program_id})

    def _shadow_row(self, totals: Totals, guardrail: Guardrail, evidence: Evidence) -> Row:
        counts = totals.comparisons.counts().values()
        compared = sum(one.compared for one in totals.figures.values())
        v1, v2 = sum(one.v1_odd for one in counts), sum(one.v2_odd for one in counts)
        ratio = ratio_interval([(0.5, v1, v2)], self._judge.judge.config.alpha)
        return _row(guardrail, evidence, Tally(compared, v1), Tally(compared, v2), ratio)

    def _quality_row(self, totals: Totals, guardrail: Guardrail, evidence: Evidence) -> Row:
        row = self._quality(totals)
        if row is None:
            return _row(guardrail, evidence, Tally(0, 0), Tally(0, 0), (0.0, None))
        ratio: tuple[float, float | None] = (0.0, None)
        if row.v1_mean:
            ratio = (max(0.0, 1 + row.interval[0] / row.v1_mean), max(0.0, 1 + row.interval[1] / row.v1_mean))
        failures = sum(sum(one.failures.values()) for one in totals.figures.values())
        v1, v2 = row.pairs + row.organic[0], row.pairs + row.organic[1]
        return _row(guardrail, evidence, Tally(v1, 0), Tally(v2, failures), ratio)


def _sum(parts: Sequence[Totals]) -> Totals | None:
    total: Totals | None = None
    for one in parts:
        if one.figures:
            total = one if total is None else total.plus(one)
    return total


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
