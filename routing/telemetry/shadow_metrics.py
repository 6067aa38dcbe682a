"""Prometheus metrics of shadow calls and of scores. None of their labels has unbounded values."""

from collections.abc import Sequence
from typing import Final, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from analysis.odd_ones import Odd
from routing.versions import Version

OUTCOMES: Final = ("same", "differs", "not_comparable", "shed", "preempted")
FAILURES: Final = ("raised", "timeout", "not_a_number", "out_of_range", "lm", "crashed", "not_loaded", "quarantined")
_SCORE_BUCKETS: Final = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


class ShadowMetrics:
    """Counts the ends of shadow calls, the fields that differ, and scores."""

    def __init__(self, registry: CollectorRegistry, versions: Sequence[Version] = tuple(Version)) -> None:
        self._percent = Gauge(
            "poolshift_shadow_percent",
            "The share of V1's calls that also run on V2, from 0 to 100.",
            registry=registry,
        )
        self._calls = Counter(
            "poolshift_shadow_calls_total",
            "Shadow calls: same, differs, not_comparable (nested too deeply), shed (never begun), preempted.",
            ["outcome"],
            registry=registry,
        )
        self._differences = Counter(
            "poolshift_shadow_differences_total",
            "Outputs that differ between V1 and V2, by the odd one after a third run (v2 is evidence, v1 noise).",
            ["odd"],
            registry=registry,
        )
        self._scores = Histogram(
            "poolshift_quality_score",
            "Scores by the programs' own metrics, as shares of their ranges.",
            ["pool_version"],
            buckets=_SCORE_BUCKETS,
            registry=registry,
        )
        self._failures = Counter(
            "poolshift_quality_failures_total",
            "Runs of a metric that gave no score, by reason; they are no part of the quality.",
            ["reason"],
            registry=registry,
        )
        for outcome in OUTCOMES:
            self._calls.labels(outcome)
        for odd in get_args(Odd):
            if odd in versions or odd not in tuple(Version):
                self._differences.labels(odd)
        for version in versions:
            self._scores.labels(version)
        for reason in FAILURES:
            self._failures.labels(reason)

    def percent_changed(self, percent: float) -> None:
        """Shows the share that has come into force."""
        self._percent.set(percent)

    def ended(self, outcome: str, count: int = 1) -> None:
        """Counts shadow calls; `outcome` is one of `OUTCOMES`."""
        self._calls.labels(outcome).inc(count)

    def differs(self, odd: Odd) -> None:
        """Counts an output that differs."""
        self._differences.labels(odd).inc()

    def scored(self, version: Version, score: float) -> None:
        """Counts a score from 0 to 1."""
        self._scores.labels(version).observe(score)

    def metric_failed(self, reason: str) -> None:
        """Counts a run of a metric without a score; `reason` is one of `FAILURES`."""
        self._failures.labels(reason).inc()
