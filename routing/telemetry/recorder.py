"""Records every figure that tells the versions apart: metrics are verbs on one recorder, on an injected registry.

The names are the contract's; `docs/metrics.md` says what each is good for.
"""

import math
from collections.abc import Callable, Mapping
from typing import Final, get_args

from mypy_extensions import mypyc_attr
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from pools.process.exits import ExitCause
from poolshift.worker.lm import LMUsage
from routing.rollout.model import Rollout
from routing.telemetry import tallies
from routing.telemetry.spans import SpanOutcome
from routing.versions import Decision, Reason, Version

_DURATION_BUCKETS = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip
_START_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
OK: Final = "ok"
MAX_LM_MODELS = 20
"""Limit of models with their own label: sessions choose the names."""
OTHER_MODELS = "other"


@mypyc_attr(allow_interpreted_subclasses=True)  # the bench has silent ones
class Recorder:
    """Counts what the router and the pools do. What each call counts is a tally (`routing.telemetry.tallies`)."""

    def __init__(self, registry: CollectorRegistry, errors: Mapping[str, str]) -> None:
        """Takes the categories of all codes as `errors`: the series begin at 0, so a rate sees the first error."""
        self._requests = tallies.Counter(
            "poolshift_requests_total",
            "Calls that were answered, by version, operation and outcome (ok or an error code).",
            ["pool_version", "operation", "outcome"],
            registry,
        )
        self._duration = tallies.Histogram(
            "poolshift_request_duration_seconds",
            "From the routing decision to the answer.",
            ["pool_version", "operation"],
            _DURATION_BUCKETS,
            registry,
        )
        self._queue_wait = tallies.Histogram(
            "poolshift_queue_wait_seconds",
            "How long a call waited for a worker.",
            ["pool_version"],
            _DURATION_BUCKETS,
            registry,
        )
        self._errors = Counter(
            "poolshift_errors_total",
            "Calls that failed, by version, error code and category.",
            ["pool_version", "code", "category"],
            registry=registry,
        )
        self._decisions = tallies.Counter(
            "poolshift_routing_decisions_total",
            "Decisions, by version and by what made them.",
            ["pool_version", "reason"],
            registry,
        )
        self._canary_percent = Gauge(
            "poolshift_canary_percent", "The share of V2 in the split, from 0 to 100.", registry=registry
        )
        self._revision = Gauge("poolshift_rollout_revision", "The revision of the rollout in force.", registry=registry)
        self._staleness = Gauge(
            "poolshift_rollout_staleness_seconds",
            "Since this replica last knew that its rollout is the newest; 0 while it keeps up.",
            registry=registry,
        )
        self._cut_off = Gauge(
            "poolshift_rollout_cut_off",
            "1 while everything goes to V1 because this replica is cut off from the rollout, else 0.",
            registry=registry,
        )
        self._rollback = Gauge(
            "poolshift_rollback_last_dispatch_seconds",
            "From the last fall to 0 percent until the last dispatch to V2; 0 if none came after it.",
            registry=registry,
        )
        self._drain = Gauge(
            "poolshift_drain_seconds_left",
            "While draining, until DRAIN_TIMEOUT_S is over (negative afterwards); NaN otherwise.",
            registry=registry,
        )
        self._drain.set(math.nan)
        self._spans = Counter(
            "poolshift_trace_spans_total",
            "Spans of sampled calls: exported, failed (the collector did not take them), dropped (the queue was full).",
            ["outcome"],
            registry=registry,
        )
        self._deliveries = Counter(
            "poolshift_webhook_deliveries_total",
            "Notifications of the ramp: delivered, failed (an attempt; it is tried again), given_up.",
            ["outcome"],
            registry=registry,
        )
        for delivery in ("delivered", "failed", "given_up"):
            self._deliveries.labels(delivery)
        self._restarts = Counter(
            "poolshift_background_restarts_total",
            "Restarts of background tasks that ended, by task.",
            ["task"],
            registry=registry,
        )
        self._starts = Counter(
            "poolshift_worker_starts_total", "Workers that got ready.", ["pool_version"], registry=registry
        )
        self._exits = Counter(
            "poolshift_worker_exits_total",
            "Workers that ended, by cause.",
            ["pool_version", "cause"],
            registry=registry,
        )
        self._start_duration = Histogram(
            "poolshift_worker_start_duration_seconds",
            "Time from requesting a worker until it is ready.",
            ["pool_version"],
            buckets=_START_BUCKETS,
            registry=registry,
        )
        self._lm_tokens = Counter(
            "poolshift_lm_tokens_total",
            "Tokens that DSPy programs used, by version, model and kind (prompt or completion).",
            ["pool_version", "model", "kind"],
            registry=registry,
        )
        self._lm_models: set[str] = set()
        for outcome in get_args(SpanOutcome):
            self._spans.labels(outcome)
        # What every call counts is looked up once.
        self._calls: dict[tuple[str, str], tuple[tallies.Count, tallies.Distribution]] = {}
        self._waits = {version: self._queue_wait.of(version) for version in Version}
        self._decided = {
            version: {reason: self._decisions.of(version, reason) for reason in Reason} for version in Version
        }
        for version in Version:
            for code, category in errors.items():
                self._errors.labels(version, code, category)
            self._starts.labels(version)
            self._start_duration.labels(version)
            for kind in ("prompt", "completion"):
                self._lm_tokens.labels(version, OTHER_MODELS, kind)
            for cause in ExitCause:
                self._exits.labels(version, cause)

    def decided(self, decision: Decision) -> None:
        """Counts a decision."""
        self._decided[decision.version][decision.reason].inc()

    def answered(
        self,
        version: Version,
        operation: str,
        outcome: str,
        seconds: float,
        queued_s: float,
        trace_id: str | None = None,
    ) -> None:
        """Counts a call that is answered, `seconds` after its decision, `queued_s` of them in the queue.

        `trace_id` is the trace of a sampled call: the exemplar, which OpenMetrics shows.
        """
        calls = self._calls.get((version, operation))
        if calls is None:
            calls = self._requests.of(version, operation, OK), self._duration.of(version, operation)
            self._calls[version, operation] = calls
        went_well, duration = calls
        (went_well if outcome == OK else self._requests.of(version, operation, outcome)).inc()
        duration.observe(seconds, trace_id)
        self._waits[version].observe(queued_s)

    def failed(self, version: Version, code: str, category: str) -> None:
        """Counts a call whose answer is an error."""
        self._errors.labels(version, code, category).inc()

    def spans(self, outcome: SpanOutcome, count: int) -> None:
        """Counts the end of `count` spans."""
        self._spans.labels(outcome).inc(count)

    def webhook_delivery(self, outcome: str) -> None:
        """Counts an attempt to deliver a notification, or a notification that is given up."""
        self._deliveries.labels(outcome).inc()

    def lm_used(self, version: Version, model: str, usage: LMUsage) -> None:
        """Counts the tokens of an execution, whether it went well or not."""
        if len(self._lm_models) < MAX_LM_MODELS:
            self._lm_models.add(model)
        label = model if model in self._lm_models else OTHER_MODELS
        self._lm_tokens.labels(version, label, "prompt").inc(usage.prompt_tokens)
        self._lm_tokens.labels(version, label, "completion").inc(usage.completion_tokens)

    def background_restarted(self, task: str, count: int) -> None:
        """Counts `count` restarts of a background task; 0 makes its series exist."""
        self._restarts.labels(task).inc(count)

    def rollout_changed(self, rollout: Rollout) -> None:
        """Notes the rollout that has come into force."""
        self._canary_percent.set(rollout.canary_percent)
        self._revision.set(rollout.revision)

    def watch(
        self, *, staleness: Callable[[], float], rollback: Callable[[], float], is_cut_off: Callable[[], bool]
    ) -> None:
        """Asks at each scrape for the rollout's staleness and last rollback's time, in seconds, and for a cut-off."""
        self._staleness.set_function(staleness)
        self._cut_off.set_function(is_cut_off)
        self._rollback.set_function(rollback)

    def draining(self, seconds_left: Callable[[], float]) -> None:
        """Notes that a drain has begun: asks at each scrape for the time that is left."""
        self._drain.set_function(seconds_left)

    def worker_started(self, version: str, seconds: float) -> None:
        """Counts a worker that is ready, `seconds` after the pool asked for it."""
        self._starts.labels(version).inc()
        self._start_duration.labels(version).observe(seconds)

    def worker_exited(self, version: str, cause: ExitCause) -> None:
        """Counts a worker that is dead."""
        self._exits.labels(version, cause).inc()
