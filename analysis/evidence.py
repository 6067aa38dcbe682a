"""Each guardrail's evidence, out of counters and up to date with them."""

import math
from collections.abc import Iterable

from analysis.costs import CostEvidence
from analysis.counters import Counters
from analysis.faults import FaultEvidence, cells_of_copy
from analysis.formulas.odds import SPLIT, log_sum_exp, worse_than
from analysis.guardrails import OTHER_PROGRAMS, Config, Guardrail, Kind
from analysis.latency import LatencyEvidence
from analysis.latency_bins import bins_of_ratio
from analysis.program_latency import ProgramLatency
from analysis.promotion import busy_programs, log_e_no_slower_tail, log_e_not_faultier, rate_log_e
from analysis.ramp import MAX_COPIES, copy_shares
from analysis.verdict import Evidence


class Bench:
    """All evidence on one set of counters. The judge's own is kept up to date; a merged one is made for one look."""

    def __init__(self, config: Config, counters: Counters) -> None:
        self.config = config
        self.counters = counters
        self.latency = LatencyEvidence(counters)
        self.program_latency = ProgramLatency(counters)
        self.costs = CostEvidence(counters, config.c0)
        self._log_shares: list[float] = []
        self.faults: dict[str, FaultEvidence] = {}
        for one in config.guardrails:
            if one.kind is Kind.FAULTS:
                evidence = FaultEvidence(one, worse_than(config.r0), counters.steps, config.programs)
                evidence.feed(counters)
                self.faults[one.name] = evidence

    def look(self, guardrail: Guardrail) -> Evidence:
        """Returns a guardrail's evidence: the start copy that is nearest to its threshold, ln(1/(α·share)).

        The copy's share of α is in its log e-value, so that all copies have one threshold.
        """
        threshold = -math.log(self.config.alpha_of(guardrail))
        log_shares = self._shares()
        by_copy = self._by_copy(guardrail, len(log_shares))
        best, step, stratum = -math.inf, None, "all"
        for copy, (log_e, deciding) in enumerate(by_copy):
            if log_e + log_shares[copy] > best:
                best, step, stratum = log_e + log_shares[copy], self.counters.steps[copy][0], deciding
        return Evidence(guardrail.name, best if by_copy else 0.0, threshold, stratum, step)

    def _shares(self) -> list[float]:
        """Logarithms of the start copies' shares of α."""
        if len(self._log_shares) != min(len(self.counters.steps), MAX_COPIES):
            shares = copy_shares(self.counters.steps, self.config.steps)
            self._log_shares = [math.log(share) for share in shares[:MAX_COPIES]]
        return self._log_shares

    def _by_copy(self, guardrail: Guardrail, copies: int) -> list[tuple[float, str]]:
        if guardrail.kind is Kind.LATENCY:
            return self._latency_by_copy(guardrail, copies)
        if guardrail.kind is Kind.COST:
            return [(log_e, "all") for log_e in self.costs.log_e(copies)]
        if guardrail.kind is Kind.SPLIT:
            cells = [cells_of_copy(self.counters.units, copy, self.counters.steps) for copy in range(copies)]
            return [(SPLIT.log_e(one), "all") for one in cells]
        evidence = self.faults[guardrail.name].log_e(copies)
        return [(log_e, f"{kind}={name}" if name else kind) for log_e, (kind, name) in evidence]

    def _latency_by_copy(self, guardrail: Guardrail, copies: int) -> list[tuple[float, str]]:
        """Averages over all calls and the programs, whose calls are in the same order of events."""
        room = self.config.programs
        programs = self.program_latency.log_e(copies) if guardrail.by_program else {}
        named = [program for program in programs if program != OTHER_PROGRAMS][:room]
        weights = {
            program: guardrail.weight_of(program, room) for program in (*named, OTHER_PROGRAMS) if program in programs
        }
        left = 1.0 - guardrail.pooled - sum(weights.values())
        found = []
        for copy, pooled in enumerate(self.latency.log_e(copies)):
            terms = {"all": math.log(guardrail.pooled) + pooled}
            terms |= {f"program={name}": math.log(weights[name]) + programs[name][copy] for name in weights}
            rest = [math.log(left)] if left > 1e-12 else []
            found.append((log_sum_exp([*terms.values(), *rest]), max(terms, key=lambda name: terms[name])))
        return found

    def is_not_worse(self, step: int) -> bool:
        """Tells if every guardrail that promotion waits for shows that V2 is not worse, on this step's calls alone."""
        return not self._lacking_pooled(step) and not self._lacking_programs(step)

    def lacking(self, step: int) -> tuple[Evidence, ...]:
        """Returns the guardrails that promotion still waits for, with their evidence that V2 is not worse.

        A step that went on after a restart of the judge is one step. The copy that begins with it counts no key twice,
        since a key that comes back after the restart counts in later copies alone.
        """
        return (*self._lacking_pooled(step), *self._lacking_programs(step))

    def _lacking_pooled(self, step: int) -> list[Evidence]:
        threshold, first = -math.log(self.config.promotion_alpha), self.first_of(step)
        found = [
            Evidence(one.name, self.not_worse(one, first), threshold)
            for one in self.config.guardrails
            if one.promotes and one.kind is not Kind.FED
        ]
        return [one for one in found if not one.is_alarm]

    def _lacking_programs(self, step: int) -> list[Evidence]:
        first = self.first_of(step)
        busy = self.busy(first)
        found = [one for guardrail in self.config.guardrails for one in self.of_programs(guardrail, first, busy)]
        return [one for one in found if not one.is_alarm]

    def busy(self, first: int) -> list[str]:
        """Returns the programs with so many of a step's calls that a promotion waits until each is shown."""
        return busy_programs(self.counters, first)

    def of_programs(self, guardrail: Guardrail, first: int, programs: Iterable[str]) -> list[Evidence]:
        """Returns the evidence that these programs are not slower on V2, if promotion asks the guardrail for it."""
        if not guardrail.promotes or guardrail.program_margin is None:
            return []
        threshold = -math.log(self.config.promotion_alpha)
        return [
            Evidence(guardrail.name, self._program_not_worse(guardrail, name, first), threshold, f"program={name}")
            for name in programs
        ]

    def not_shown(self, guardrail: Guardrail, step: int) -> tuple[str, ...]:
        """Returns the programs with calls at a step that are not shown to be as fast on V2, in alphabetical order."""
        if not guardrail.promotes or guardrail.program_margin is None:
            return ()
        first = self.first_of(step)
        found = self.of_programs(guardrail, first, self.program_latency.programs)
        shown = {one.stratum for one in found if one.is_alarm}
        programs = {program for at, program in self.counters.programs if at >= first}
        return tuple(sorted(program for program in programs if f"program={program}" not in shown))

    def _program_not_worse(self, guardrail: Guardrail, program: str, first: int) -> float:
        """Returns the log e-value against "V2 is worse by the margin" of one program's calls."""
        if guardrail.kind is Kind.LATENCY:
            return self.program_latency.log_e_not_slower(program, first)
        events = cells_of_copy(self.faults[guardrail.name].of_program(program), first, self.counters.steps)
        margin = guardrail.program_margin or guardrail.margin
        return log_e_no_slower_tail(events, margin, *self.program_latency.ranks_of_v2(program, first))

    def first_of(self, step: int) -> int:
        """Returns the copy that begins with the share of `step`."""
        w = self.counters.steps[step][0]
        return next(index for index, (at, _) in enumerate(self.counters.steps) if at == w)

    def not_worse(self, guardrail: Guardrail, step: int) -> float:
        """Returns the log e-value against "V2 is worse by the margin"."""
        if guardrail.kind is Kind.LATENCY:
            return self.latency.log_e_not_slower(step, bins_of_ratio(guardrail.margin))
        faults = sum(
            pair[1] for (name, at), pair in self.counters.faults.items() if name == guardrail.name and at >= step
        )
        rate = rate_log_e(self.config.floor, self.counters.units, step, faults)
        if guardrail.name == "tail":
            rate = -math.inf  # a share of calls is slow by definition
        return log_e_not_faultier(self.faults[guardrail.name], step, self.counters.steps, self.config, rate)
