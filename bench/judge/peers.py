"""Peers as policies: what their public descriptions say they would do on a trace.

Each gets what it gets in a real cluster: counts and quantiles per version and interval, read from metrics.
Client errors judge nobody here either. The settings are those of the peers' own examples, with limits that fit the
service: 1 % of failed calls, and a p99 of one and a half times what V1 is known to have.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from analysis.guardrails import GUARDRAIL_OF
from bench.judge.traces import Call, Scenario

SUCCESS = 0.99
SLOWER = 1.5
_NORMAL_99 = 2.326
_NORMAL_98_TWO_SIDED = 2.326


@dataclass(frozen=True)
class Interval:
    """One version's calls in one interval."""

    calls: int
    faults: int
    p99_ms: float | None

    @property
    def success(self) -> float | None:
        """Share of calls without a fault; None without calls."""
        return 1 - self.faults / self.calls if self.calls else None


def intervals(calls: Iterable[Call], seconds: float) -> Iterator[tuple[int, Interval, Interval]]:
    """Yields the number of calls so far, and both versions' interval, each time one ends."""
    end = seconds
    gathered: dict[str, list[Call]] = {"v1": [], "v2": []}
    number = 0
    for number, call in enumerate(calls, 1):
        while call.t >= end:
            yield number, _interval(gathered["v1"]), _interval(gathered["v2"])
            gathered = {"v1": [], "v2": []}
            end += seconds
        gathered[call.arm].append(call)


def _interval(calls: list[Call]) -> Interval:
    times = sorted(call.ms for call in calls if call.outcome == "ok")
    p99 = times[min(int(0.99 * len(times)), len(times) - 1)] if times else None
    return Interval(len(calls), sum(call.outcome in GUARDRAIL_OF for call in calls), p99)


def _allowed_p99(scenario: Scenario) -> float:
    """A limit that an operator sets from experience: V1's p99 (median 30 ms) and a margin."""
    return SLOWER * 30 * math.exp(_NORMAL_99 * scenario.sigma)


def argo(failure_limit: int) -> Callable[[Iterable[Call], Scenario], dict[str, int]]:
    """Argo Rollouts: an AnalysisTemplate with a success condition, each minute, and a `failureLimit`.

    Source: argo-rollouts, docs/features/analysis.md. Each metric has its own count of failed measurements.
    """

    def policy(calls: Iterable[Call], scenario: Scenario) -> dict[str, int]:
        failed = {"success": 0, "p99": 0}
        for number, _, v2 in intervals(calls, 60):
            failed["success"] += v2.success is not None and v2.success < SUCCESS
            failed["p99"] += v2.p99_ms is not None and v2.p99_ms > _allowed_p99(scenario)
            if max(failed.values()) > failure_limit:
                return {"rollback": number}
        return {}

    return policy


def flagger(calls: Iterable[Call], scenario: Scenario) -> dict[str, int]:
    """Flagger: request-success-rate and request-duration each minute; five failed checks roll back.

    Source: docs.flagger.app, "How it works": `threshold: 5`, a check fails if any metric does.
    """
    failed = 0
    for number, _, v2 in intervals(calls, 60):
        is_bad = v2.success is not None and v2.success < SUCCESS
        is_slow = v2.p99_ms is not None and v2.p99_ms > _allowed_p99(scenario)
        failed += is_bad or is_slow
        if failed >= 5:
            return {"rollback": number}
    return {}


def kayenta(calls: Iterable[Call], _: Scenario) -> dict[str, int]:
    """Kayenta: the Mann–Whitney judge on per-minute metrics of both versions, every 5 minutes on all data so far.

    Source: kayenta, docs/canary-judge.md and NetflixACAJudge: 98 % confidence, an effect above 25 % of the mean; a
    canary that scores under the marginal limit (one of two groups fails) is rolled back.
    """
    series: dict[str, tuple[list[float], list[float]]] = {"errors": ([], []), "p99": ([], [])}
    for minute, (number, v1, v2) in enumerate(intervals(calls, 60), 1):
        if v1.success is not None and v2.success is not None:
            series["errors"][0].append(1 - v1.success)
            series["errors"][1].append(1 - v2.success)
        if v1.p99_ms is not None and v2.p99_ms is not None:
            series["p99"][0].append(v1.p99_ms)
            series["p99"][1].append(v2.p99_ms)
        if minute % 5 == 0 and any(_is_higher(*pair) for pair in series.values()):
            return {"rollback": number}
    return {}


def _is_higher(baseline: list[float], canary: list[float]) -> bool:
    """Mann and Whitney's U, by the normal approximation with ties, and the size of the effect."""
    if len(canary) < 5:
        return False
    u, ties = _mann_whitney(baseline, canary)
    n1, n2 = len(baseline), len(canary)
    n = n1 + n2
    variance = n1 * n2 / 12 * (n + 1 - ties / (n * (n - 1)))
    mean = statistics.fmean(baseline)
    effect = statistics.fmean(canary) - mean
    return variance > 0 and (u - n1 * n2 / 2) / math.sqrt(variance) > _NORMAL_98_TWO_SIDED and effect > 0.25 * mean


def _mann_whitney(baseline: list[float], canary: list[float]) -> tuple[float, float]:
    """Returns the canary's U, and the sum of t³ − t over ties."""
    ranked = sorted([(value, 0) for value in baseline] + [(value, 1) for value in canary])
    rank_sum = ties = 0.0
    begin = 0
    while begin < len(ranked):
        end = begin
        while end < len(ranked) and ranked[end][0] == ranked[begin][0]:
            end += 1
        rank_sum += sum(version for _, version in ranked[begin:end]) * (begin + end + 1) / 2
        ties += (end - begin) ** 3 - (end - begin)
        begin = end
    return rank_sum - len(canary) * (len(canary) + 1) / 2, ties


PEERS: dict[str, Callable[[Iterable[Call], Scenario], dict[str, int]]] = {
    "fixed threshold (Argo), failureLimit 0": argo(0),
    "fixed threshold (Argo), failureLimit 5": argo(5),
    "Flagger": flagger,
    "Kayenta's judge every 5 min": kayenta,
}
