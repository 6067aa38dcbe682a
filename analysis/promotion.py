"""Non-inferiority: promotion needs evidence on the last step that V2 is not worse than V1 by the margin.

Each guardrail tests its own "V2 is worse by the margin" at the whole α for promotion. All must reject, so that the
probability of a false promotion is at most α (an intersection–union test: Berger, Technometrics 1982). Only calls of
the last step count: older evidence would promote a V2 that has become worse since.
"""

import math
from collections.abc import Sequence

from analysis.counters import Counters, add, total
from analysis.faults import FaultEvidence, cells_of_copy
from analysis.formulas.odds import Cell, better_than, log_sum_exp
from analysis.guardrails import BUSY, Config
from analysis.program_latency import FLOOR
from analysis.ramp import StepId

_SHARES_OF_FLOOR = (0.5, 0.2, 0.05)


def log_e_rarer_than(floor: float, units: int, faults: int) -> float:
    """Log e-value against "V2's faults are at least `floor` of its calls": Wald's test of a rate, over a mixture.

    `units` are calls without a key and first calls of keys; `faults` are all faults, so that keys with many calls make
    the test conservative. For rates p < floor the factors are p/floor and (1 − p)/(1 − floor).
    """
    terms = [
        faults * math.log(share) + (max(units - faults, 0)) * math.log((1 - share * floor) / (1 - floor))
        for share in _SHARES_OF_FLOOR
    ]
    return log_sum_exp(terms) - math.log(len(terms))


def log_e_not_faultier(evidence: FaultEvidence, step: int, steps: list[StepId], config: Config, rate: float) -> float:
    """Log e-value against "V2 has `margin` times V1's faults, and at least the floor"; `rate` is the floor's test."""
    test = better_than(evidence.guardrail.margin * config.r0)
    ratio = test.log_e(cells_of_copy(evidence.pooled, step, steps))
    # Under the null both halves are true, so both are e-processes, and so is their average.
    return log_sum_exp([ratio, rate]) - math.log(2)


def rate_log_e(floor: float, units: dict[tuple[int, int], list[int]], step: int, faults: int) -> float:
    """Log e-value of the floor's test for the units from one step on."""
    counted = total([pair for (first, at), pair in units.items() if first <= step <= at])
    return log_e_rarer_than(floor, counted[1], faults)


def log_e_no_slower_tail(events: Sequence[Cell], margin: float, calls: int, slow: int) -> float:
    """Log e-value against "V2's p99 has tripled, and `margin` times as many of its calls are over V1's", of a program.

    `events` are calls over V1's p99; V2 has `calls`, of which so many are `slow`: three times V1's p99.
    """
    ratio = better_than(margin).log_e(events)
    return log_sum_exp([ratio, log_e_rarer_than(FLOOR, calls, slow)]) - math.log(2)


def busy_programs(counters: Counters, first: int) -> list[str]:
    """Returns the programs with the share `BUSY` of the calls that succeeded from one step on, in alphabetical order.

    A program without such a call on V1 has nothing to be compared with.
    """
    times: dict[str, list[int]] = {}
    for (step, program), histogram in counters.times.items():
        if step >= first:
            for version, calls in enumerate(total(histogram.values())):
                add(times, program, version, calls)
    seen = sum(map(sum, times.values()))
    return sorted(program for program, pair in times.items() if pair[0] and sum(pair) >= BUSY * seen)
