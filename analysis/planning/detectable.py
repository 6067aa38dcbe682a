"""Calls until a regression would be found, at the present step and the present rates.

The threshold divided by the information per call (Wald, 1947, the expected sample size of a sequential test). The
information is the mean logarithm of a call's factor if the regression is real.
"""

import math

from analysis.costs import generation_of_costs
from analysis.counters import total
from analysis.evidence import Bench
from analysis.formulas.odds import log_factors
from analysis.guardrails import Guardrail, Kind
from analysis.latency import generation_of
from analysis.latency_bins import SHIFTS, bins_of_ratio
from analysis.ramp import FIRST_SHARE

_PRIOR = math.log(0.25)
"""The mixture's cost: the alternative that is nearest has about a quarter of the prior."""
_NEVER = 100_000_000


def calls_until(bench: Bench, guardrail: Guardrail, ratio: float, threshold: float) -> int | None:
    """Returns the calls until a regression by `ratio` would be found, None if never."""
    steps = bench.counters.steps
    if not steps:
        return None
    w = steps[-1][0]
    information = {
        Kind.LATENCY: lambda: _of_latency(bench, w, ratio),
        Kind.COST: lambda: _of_cost(bench, w, ratio),
        Kind.SPLIT: lambda: _of_split(bench, w, ratio),
    }.get(guardrail.kind, lambda: _of_faults(bench, guardrail, w, ratio))()
    if information <= 0:
        return None
    calls = math.ceil((threshold - math.log(FIRST_SHARE) - _PRIOR) / information)
    return calls if calls < _NEVER else None


def _of_faults(bench: Bench, guardrail: Guardrail, w: float, ratio: float) -> float:
    """Events per call times the divergence of an event's version from a coin of probability w."""
    calls = total(bench.counters.calls.values())
    events = total(bench.faults[guardrail.name].pooled.values())
    if not sum(calls):
        return 0.0
    base = events[0] / calls[0] if calls[0] else sum(events) / sum(calls)
    log_v1, log_v2 = log_factors(w, ratio)
    return base * ((1 - w) * log_v1 + w * ratio * log_v2)


def _of_split(bench: Bench, w: float, ratio: float) -> float:
    """Units per call times the divergence of the misrouted coin from the right one."""
    calls = sum(total(bench.counters.calls.values()))
    units = sum(total(bench.counters.units.values()))
    log_v1, log_v2 = log_factors(w, ratio)
    share = w * ratio / (1 - w + w * ratio)
    return min(units / calls, 1.0) * ((1 - share) * log_v1 + share * log_v2) if calls else 0.0


def _of_cost(bench: Bench, w: float, ratio: float) -> float:
    """Counted calls per call, times the mean logarithm of the best bet's factor for a V2 that costs more."""
    calls = sum(total(bench.counters.calls.values()))
    seen = sum(total(pair for one in bench.counters.costs.values() for pair in one.values()))
    return bench.costs.information(w, ratio, generation_of_costs(seen)) * seen / calls if calls else 0.0


def _of_latency(bench: Bench, w: float, ratio: float) -> float:
    """First successful calls of keys per call, times the divergence of a slower V2 in the reference's bins."""
    calls = sum(total(bench.counters.calls.values()))
    seen = sum(total(pair for one in bench.counters.latency.values() for pair in one.values()))
    generation = generation_of(seen)
    reference = bench.latency.references.of(generation)
    if reference is None or not calls:
        return 0.0
    weights = reference.worse[SHIFTS.index(bins_of_ratio(ratio))]
    information = 0.0
    for mass, rho in zip(reference.masses, weights, strict=True):
        log_v1, log_v2 = log_factors(w, max(rho, 1e-9))
        information += mass * ((1 - w) * log_v1 + w * rho * log_v2)
    return seen / calls * information
