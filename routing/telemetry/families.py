"""Prometheus metrics of everything but calls: the errors, the rollout, the workers, the LMs and the service itself.

The recorder's verbs set and count them. The metrics of calls are the recorder's own, because each call counts there.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Final, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from pools.process.exits import ExitCause
from poolshift.worker.lm import LMUsage
from routing.telemetry.spans import SpanOutcome
from routing.versions import Version

_START_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
MAX_LM_MODELS = 20
"""Limit of models with their own label: sessions choose the names."""
OTHER_MODELS = "other"


def error_counter(registry: CollectorRegistry, errors: Mapping[str, str], versions: Sequence[Version]) -> Counter:
    """Makes the counter of errors; the series of each code, with its category, begins at 0."""
    counter = Counter(
        "poolshift_errors_total",
        "Calls that failed, by version, error code and category.",
        ["pool_version", "code", "category"],
        registry=registry,
    )
    for version in versions:
        for code, category in errors.items():
            counter.labels(version, code, category)
    return counter


class RolloutMetrics:
    """The rollout in force on this replica, and its distance to the newest one."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.canary_percent = Gauge(
            "poolshift_canary_percent", "The share of V2 in the split, from 0 to 100.", registry=registry
        )
        self.revision = Gauge("poolshift_rollout_revision", "The revision of the rollout in force.", registry=registry)
        self.staleness = Gauge(
            "poolshift_rollout_staleness_seconds",
            "Since this replica last knew that its rollout is the newest; 0 while it keeps up.",
            registry=registry,
        )
        self.cut_off = Gauge(
            "poolshift_rollout_cut_off",
            "1 while everything goes to V1 because this replica is cut off from the rollout, else 0.",
            registry=registry,
        )
        self.rollback = Gauge(
            "poolshift_rollback_last_dispatch_seconds",
            "From the last fall to 0 percent until the last dispatch to V2; 0 if none came after it.",
            registry=registry,
        )


class ServiceMetrics:
    """The service's drain, tasks, exported spans, restarts of background tasks and delivered notifications."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.drain = Gauge(
            "poolshift_drain_seconds_left",
            "While draining, until DRAIN_TIMEOUT_S is over (negative afterwards); NaN otherwise.",
            registry=registry,
        )
        self.drain.set(math.nan)
        self.viewers = Gauge(
            "poolshift_console_viewers", "Tabs of the console that are live on this replica.", registry=registry
        )
        self.v1_sunset = Gauge(
            "poolshift_v1_sunset_timestamp_seconds",
            "The announced end of V1, in seconds since 1970; 0 if none is announced.",
            registry=registry,
        )
        self.tasks = Gauge(
            "poolshift_event_loop_tasks",
            "Unfinished asyncio tasks, the one that answers the scrape among them.",
            registry=registry,
        )
        self.scrapes = Counter(
            "poolshift_metrics_scrapes_total", "Answers of /metrics on this replica before this one.", registry=registry
        )
        self.spans = Counter(
            "poolshift_trace_spans_total",
            "Spans of sampled calls: exported, failed (the collector did not take them), dropped (the queue was full).",
            ["outcome"],
            registry=registry,
        )
        for outcome in get_args(SpanOutcome):
            self.spans.labels(outcome)
        self.restarts = Counter(
            "poolshift_background_restarts_total",
            "Restarts of background tasks that ended, by task.",
            ["task"],
            registry=registry,
        )
        self.deliveries = Counter(
            "poolshift_webhook_deliveries_total",
            "Notifications of the ramp: delivered, failed (an attempt; it is tried again), given_up.",
            ["outcome"],
            registry=registry,
        )
        self.job_deliveries = Counter(
            "poolshift_job_webhook_deliveries_total",
            "Notifications of jobs' ends: delivered, failed (an attempt; it is tried again), given_up.",
            ["outcome"],
            registry=registry,
        )
        for delivery in ("delivered", "failed", "given_up"):
            self.deliveries.labels(delivery)
            self.job_deliveries.labels(delivery)


class WorkerMetrics:
    """The workers' starts and exits."""

    def __init__(self, registry: CollectorRegistry, versions: Sequence[Version]) -> None:
        self.starts = Counter(
            "poolshift_worker_starts_total", "Workers that got ready.", ["pool_version"], registry=registry
        )
        self.exits = Counter(
            "poolshift_worker_exits_total",
            "Workers that ended, by cause.",
            ["pool_version", "cause"],
            registry=registry,
        )
        self.start_duration = Histogram(
            "poolshift_worker_start_duration_seconds",
            "Time from requesting a worker until it is ready.",
            ["pool_version"],
            buckets=_START_BUCKETS,
            registry=registry,
        )
        self.loop_blocked = Histogram(
            "poolshift_worker_loop_blocked_seconds",
            "Time for which a call let no other call of its worker run, of the engine async_pool, from 0.15 s on.",
            ["pool_version"],
            buckets=_START_BUCKETS,
            registry=registry,
        )
        for version in versions:
            self.starts.labels(version)
            self.loop_blocked.labels(version)
            self.start_duration.labels(version)
            for cause in ExitCause:
                self.exits.labels(version, cause)


class LMMetrics:
    """The tokens that DSPy programs used, and what they cost. The first `MAX_LM_MODELS` models have their own label."""

    def __init__(self, registry: CollectorRegistry, versions: Sequence[Version]) -> None:
        self._tokens = Counter(
            "poolshift_lm_tokens_total",
            "Tokens that DSPy programs used, by version, model and kind (prompt or completion).",
            ["pool_version", "model", "kind"],
            registry=registry,
        )
        self._executions = Counter(
            "poolshift_lm_executions_total",
            "Executions that used tokens, by version and model.",
            ["pool_version", "model"],
            registry=registry,
        )
        self._cost = Counter(
            "poolshift_lm_cost_total",
            "Cost of the tokens by version and model, if the model has a price.",
            ["pool_version", "model"],
            registry=registry,
        )
        self._shadow_tokens = Counter(
            "poolshift_shadow_lm_tokens_total",
            "Tokens that shadow calls and metrics used, by version, model and kind; in no other figure.",
            ["pool_version", "model", "kind"],
            registry=registry,
        )
        self._shadow_cost = Counter(
            "poolshift_shadow_lm_cost_total",
            "Cost of the tokens of shadow calls and metrics, if the model has a price.",
            ["pool_version", "model"],
            registry=registry,
        )
        self._models: set[str] = set()
        for version in versions:
            self._executions.labels(version, OTHER_MODELS)
            for cost in (self._cost, self._shadow_cost):
                cost.labels(version, OTHER_MODELS)
            for tokens, kind in itertools.product((self._tokens, self._shadow_tokens), ("prompt", "completion")):
                tokens.labels(version, OTHER_MODELS, kind)

    def used(self, version: Version, model: str, usage: LMUsage, cost: float | None) -> None:
        """Counts the tokens of an execution, and their cost if it is known."""
        label = self._label(model)
        _count_tokens(self._tokens, version, label, usage)
        self._executions.labels(version, label).inc()
        if cost is not None:
            self._cost.labels(version, label).inc(cost)

    def used_in_shadow(self, version: Version, model: str, usage: LMUsage, cost: float | None) -> None:
        """Counts the tokens of a shadow call or of a metric's run, and their cost if it is known."""
        label = self._label(model)
        _count_tokens(self._shadow_tokens, version, label, usage)
        if cost is not None:
            self._shadow_cost.labels(version, label).inc(cost)

    def _label(self, model: str) -> str:
        if len(self._models) < MAX_LM_MODELS:
            self._models.add(model)
        return model if model in self._models else OTHER_MODELS


def _count_tokens(tokens: Counter, version: Version, label: str, usage: LMUsage) -> None:
    tokens.labels(version, label, "prompt").inc(usage.prompt_tokens)
    tokens.labels(version, label, "completion").inc(usage.completion_tokens)
