"""Calls until a promotion's evidence is likely, if V2 is as good as V1: at the present step and the present rates.

The evidence that V2 is not worse is computed for the counts that are there and the mean counts of further calls, with
V2's share of them. The mean logarithm of a call's factor is what an e-value grows by (Wald, "Sequential Analysis",
1947). A real V2 needs more or fewer calls: half of the equal ones need more.
"""

import math
from collections.abc import Callable
from typing import Final

from analysis.counters import total
from analysis.evidence import Bench
from analysis.faults import cells_of_copy
from analysis.formulas.odds import better_than, log_sum_exp
from analysis.guardrails import Guardrail, Kind
from analysis.latency import generation_of
from analysis.latency_bins import FASTER_PRIORS, bins_of_ratio
from analysis.program_latency import FASTER_PRIORS as PRIORS_BY_PROGRAM
from analysis.program_latency import FLOOR
from analysis.promotion import log_e_rarer_than

_FIRST: Final = 64.0
_NEVER: Final = 1e9


def calls_until_shown(bench: Bench, guardrail: Guardrail, step: int) -> int | None:
    """Returns the further calls until `guardrail` shows that V2 is not worse, in the busy programs too.

    None is never, or not yet known.
    """
    predict = (
        _of_latency(bench, guardrail, step) if guardrail.kind is Kind.LATENCY else _of_faults(bench, guardrail, step)
    )
    threshold = -math.log(bench.config.promotion_alpha)
    found = [None if predict is None else _smallest(predict, threshold)]
    if guardrail.program_margin is not None:
        found += [_smallest(_of_program(bench, guardrail, one, step), threshold) for one in bench.busy(step)]
    return None if None in found else max(calls for calls in found if calls is not None)


def _smallest(predict: Callable[[float], float], threshold: float) -> int | None:
    """The least number of calls, to within 5 %, at which `predict` reaches the threshold."""
    high = _FIRST
    while predict(high) < threshold:
        high *= 2
        if high > _NEVER:
            return None
    low = high / 2 if high > _FIRST else 0.0
    while high - low > 0.05 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if predict(middle) >= threshold else (middle, high)
    return math.ceil(high)


def _of_faults(bench: Bench, guardrail: Guardrail, step: int) -> Callable[[float], float] | None:
    counters, evidence, config = bench.counters, bench.faults[guardrail.name], bench.config
    calls = sum(total(counters.calls.values()))
    if not calls:
        return None
    w = counters.steps[step][0]
    rate = sum(total(evidence.pooled.values())) / calls
    units_rate = min(1.0, sum(total(counters.units.values())) / calls)
    cells = cells_of_copy(evidence.pooled, step, counters.steps)
    units = total([pair for (first, at), pair in counters.units.items() if first <= step <= at])[1]
    faults = sum(pair[1] for (name, at), pair in counters.faults.items() if name == guardrail.name and at >= step)
    test = better_than(guardrail.margin * config.r0)

    def predict(more: float) -> float:
        events = rate * more
        ratio = test.log_e([*cells, (w, round(events * (1 - w)), round(events * w))])
        if guardrail.name == "tail":  # a share of calls is slow by definition
            return ratio - math.log(2)
        rare = log_e_rarer_than(config.floor, units + round(units_rate * w * more), faults + round(events * w))
        return log_sum_exp([ratio, rare]) - math.log(2)

    return predict


def _of_latency(bench: Bench, guardrail: Guardrail, step: int) -> Callable[[float], float] | None:
    """Has each alternative's logarithm grow by its mean over the bins, for V2's calls made slower by the margin."""
    counters, latency = bench.counters, bench.latency
    pooled: dict[int, int] = {}
    for histogram in counters.latency.values():
        for fine, pair in histogram.items():
            pooled[fine] = pooled.get(fine, 0) + sum(pair)
    seen, calls = sum(pooled.values()), sum(total(counters.calls.values()))
    reference = latency.references.of(generation_of(seen))
    if reference is None or not calls:
        return None
    w, bins = counters.steps[step][0], bins_of_ratio(guardrail.margin)
    usual, slower = reference.coarse_counts(pooled), reference.coarse_counts(pooled, -bins)
    means = [
        sum((1 - w) * n1 * v1 + w * n2 * v2 for n1, n2, v1, v2 in zip(usual, slower, *factors, strict=True)) / calls
        for factors in latency.references.table(reference, generation_of(seen), w, faster=True)
    ]
    sums = latency.sums_not_slower(step, bins)

    def predict(more: float) -> float:
        return log_sum_exp(
            [math.log(prior) + at + more * mean for prior, at, mean in zip(FASTER_PRIORS, sums, means, strict=True)]
        )

    return predict


def _of_program(bench: Bench, guardrail: Guardrail, program: str, step: int) -> Callable[[float], float]:
    """Has a program's counts at the step grow with all calls at it."""
    latency = bench.program_latency
    calls = sum(sum(pair) for at, pair in bench.counters.calls.items() if at >= step)
    sums = latency.sums_not_slower(program, step)
    units, slow = latency.ranks_of_v2(program, step)

    def predict(more: float) -> float:
        scale = 1 + more / calls if calls else 1.0
        if guardrail.kind is Kind.LATENCY:
            priors = zip(PRIORS_BY_PROGRAM, sums, strict=True)
            return log_sum_exp([math.log(prior) + scale * at for prior, at in priors])
        return log_e_rarer_than(FLOOR, round(scale * units), round(scale * slow)) - math.log(2)

    return predict
