"""Evidence from faults: the odds test over strata and start copies."""

import math
from collections.abc import Iterable, Sequence

from analysis.counters import Counters, UnitKey, add_one, total
from analysis.formulas.odds import Cell, Mixture, log_sum_exp
from analysis.guardrails import OTHER_PROGRAMS, Guardrail
from analysis.ramp import StepId

Stratum = tuple[str, str]
"""`("all", "")`, `("code", code)` or `("program", program)`."""
POOLED: Stratum = ("all", "")


def cells_of_copy(counts: dict[UnitKey, list[int]], copy: int, steps: Sequence[StepId]) -> list[Cell]:
    """Returns a start copy's counts by step: events of its own steps that no earlier event of the key hides from it."""
    return [(steps[step][0], pair[0], pair[1]) for (first, step), pair in counts.items() if first <= copy <= step]


class FaultEvidence:
    """Log e-values of one guardrail for each start copy. Strata without new events are not computed again.

    A copy's e-value is the average over strata, with weights that were fixed before the ramp: Σ weight·E. A stratum
    without events has E = 1. All strata of a copy count the same sequence of events, so an average is valid.
    """

    def __init__(self, guardrail: Guardrail, test: Mixture, steps: Sequence[StepId], programs: int) -> None:
        self.guardrail = guardrail
        self._test = test
        self._steps = steps
        self._programs: set[str] = set()
        self._room = programs
        self._counts: dict[Stratum, dict[UnitKey, list[int]]] = {}
        self._log_e: dict[Stratum, list[float]] = {}
        self._dirty: set[Stratum] = set()
        self._mixtures: list[tuple[float, Stratum]] = []

    def feed(self, counters: Counters) -> None:
        """Adds all of the guardrail's events that are in `counters`."""
        for (name, first, step, code, program), pair in sorted(counters.events.items()):
            if name == self.guardrail.name:
                for version in (0, 1):
                    for stratum in self._strata(code, program) if pair[version] else ():
                        self._add(stratum, (first, step), version, pair[version])

    def add(self, first: int, step: int, code: str, program: str, version: int) -> None:
        """Adds one event."""
        for stratum in self._strata(code, program):
            self._add(stratum, (first, step), version)

    def counts(self, copy: int) -> tuple[int, int]:
        """Returns the events of both versions that a start copy counts."""
        return total([(pair) for (first, step), pair in self.pooled.items() if first <= copy <= step])

    def of_program(self, program: str) -> dict[UnitKey, list[int]]:
        """All events of a program."""
        return self._counts.get(("program", program), {})

    @property
    def pooled(self) -> dict[UnitKey, list[int]]:
        """All events."""
        return self._counts.get(POOLED, {})

    def log_e(self, copies: int) -> list[tuple[float, Stratum]]:
        """Returns each start copy's log e-value, and the stratum that contributes most."""
        if not self._dirty and len(self._mixtures) == copies:
            return self._mixtures
        for stratum in self._dirty:
            counts = self._counts[stratum]
            self._log_e[stratum] = [
                self._test.log_e(cells_of_copy(counts, copy, self._steps)) for copy in range(copies)
            ]
        self._dirty.clear()
        self._mixtures = [self._mixed(copy) for copy in range(copies)]
        return self._mixtures

    def _mixed(self, copy: int) -> tuple[float, Stratum]:
        best, deciding, left = -math.inf, POOLED, 1.0
        terms: list[float] = []
        for stratum, by_copy in self._log_e.items():
            weight = self._weight(stratum)
            left -= weight
            term = math.log(weight) + (by_copy[copy] if copy < len(by_copy) else 0.0)
            terms.append(term)
            if term > best:
                best, deciding = term, stratum
        if left > 1e-12:
            terms.append(math.log(left))
        return log_sum_exp(terms), deciding

    def _weight(self, stratum: Stratum) -> float:
        kind, name = stratum
        if kind == "program":
            return self.guardrail.weight_of(name, self._room)
        return self.guardrail.by_code[name] if kind == "code" else self.guardrail.pooled

    def _strata(self, code: str, program: str) -> Iterable[Stratum]:
        yield POOLED
        if code in self.guardrail.by_code:
            yield ("code", code)
        if self.guardrail.by_program:
            if program not in self._programs:
                if len(self._programs) >= self._room:
                    program = OTHER_PROGRAMS
                else:
                    self._programs.add(program)
            yield ("program", program)

    def _add(self, stratum: Stratum, key: UnitKey, version: int, count: int = 1) -> None:
        counts = self._counts.setdefault(stratum, {})
        add_one(counts, key, version)
        counts[key][version] += count - 1
        self._dirty.add(stratum)
