"""The rows that are published: evidence, counts, intervals and what would be found."""

import math
from collections.abc import Mapping

from analysis.counters import total
from analysis.evidence import Bench
from analysis.faults import cells_of_copy
from analysis.formulas.interval import Interval, cost_interval, latency_interval, ratio_interval
from analysis.guardrails import Guardrail, Kind
from analysis.planning.detectable import calls_until
from analysis.planning.promotable import calls_until_shown
from analysis.verdict import Detectable, Evidence, Row, Tally, Until

_RATIO = {Kind.FAULTS: 2.0, Kind.LATENCY: 1.25, Kind.SPLIT: 0.9, Kind.COST: 1.5}
"""The regression whose time to be found is published."""

MAX_NAMED = 100
"""Programs of which a row says that it does not show them."""


def rows(bench: Bench, fed: Mapping[str, Row], rate: float | None) -> tuple[Row, ...]:
    """Returns a row for each guardrail; one that nobody feeds has no evidence. `rate` is of calls per second."""
    return tuple(
        fed.get(one.name) or _unfed(bench, one) if one.kind is Kind.FED else _row(bench, one, rate)
        for one in bench.config.guardrails
    )


def _row(bench: Bench, guardrail: Guardrail, rate: float | None) -> Row:
    evidence = bench.look(guardrail)
    v1, v2 = _tallies(bench, guardrail)
    interval = _interval(bench, guardrail)
    is_shown = _is_shown(bench, guardrail, interval)
    return Row(
        guardrail.name,
        guardrail.action.value,
        evidence.log_e,
        evidence.threshold,
        v1,
        v2,
        interval,
        evidence.stratum,
        _detectable(bench, guardrail, evidence, rate),
        is_shown,
        None if is_shown else _until_shown(bench, guardrail, rate),
        _not_shown(bench, guardrail),
    )


def _is_shown(bench: Bench, guardrail: Guardrail, interval: Interval) -> bool:
    """Tells if V2 is shown not to be worse by the margin: by the current step's calls, as a promotion asks."""
    low, high = interval
    if guardrail.kind is Kind.SPLIT:
        return high is not None and _RATIO[Kind.SPLIT] < low and high < 1 / _RATIO[Kind.SPLIT]
    if guardrail.kind is Kind.COST:
        return high is not None and high < _RATIO[Kind.COST]
    steps = bench.counters.steps
    threshold = -math.log(bench.config.promotion_alpha)
    if not steps or bench.not_worse(guardrail, first := bench.first_of(len(steps) - 1)) < threshold:
        return False
    return all(one.is_alarm for one in bench.of_programs(guardrail, first, bench.busy(first)))


def _not_shown(bench: Bench, guardrail: Guardrail) -> tuple[str, ...]:
    steps = bench.counters.steps
    return bench.not_shown(guardrail, len(steps) - 1)[:MAX_NAMED] if steps else ()


def _until_shown(bench: Bench, guardrail: Guardrail, rate: float | None) -> Until | None:
    """The calls until that is likely; nothing foresees it for the split and the cost."""
    steps = bench.counters.steps
    if not steps or guardrail.kind in (Kind.SPLIT, Kind.COST):
        return None
    calls = calls_until_shown(bench, guardrail, bench.first_of(len(steps) - 1))
    return None if calls is None else Until(calls, calls / rate if rate else None)


def _unfed(bench: Bench, guardrail: Guardrail) -> Row:
    nothing = Tally(0, 0)
    threshold = -math.log(bench.config.alpha_of(guardrail))
    found = Detectable(2.0, None, None)
    return Row(guardrail.name, guardrail.action.value, 0.0, threshold, nothing, nothing, (0.0, None), "all", found)


def _tallies(bench: Bench, guardrail: Guardrail) -> tuple[Tally, Tally]:
    counters = bench.counters
    if guardrail.kind is Kind.SPLIT:
        calls, faults = total(counters.units.values()), (0, 0)
    elif guardrail.kind is Kind.COST:
        calls, faults = total(pair for one in counters.costs.values() for pair in one.values()), (0, 0)
    elif guardrail.kind is Kind.LATENCY:
        calls, faults = total(pair for one in counters.latency.values() for pair in one.values()), (0, 0)
    else:
        calls = total(counters.calls.values())
        faults = total(pair for (name, _), pair in counters.faults.items() if name == guardrail.name)
    return Tally(calls[0], faults[0]), Tally(calls[1], faults[1])


def _interval(bench: Bench, guardrail: Guardrail) -> Interval:
    alpha = bench.config.alpha
    if guardrail.kind is Kind.LATENCY:
        return latency_interval(bench.latency, alpha, bench.config.m0)
    if guardrail.kind is Kind.COST:
        return cost_interval(bench.costs, alpha)
    counts = bench.counters.units if guardrail.kind is Kind.SPLIT else bench.faults[guardrail.name].pooled
    return ratio_interval(cells_of_copy(counts, 0, bench.counters.steps), alpha)


def _detectable(bench: Bench, guardrail: Guardrail, evidence: Evidence, rate: float | None) -> Detectable:
    ratio = _RATIO[guardrail.kind]
    calls = calls_until(bench, guardrail, ratio, evidence.threshold)
    return Detectable(ratio, calls, calls / rate if calls is not None and rate else None)
