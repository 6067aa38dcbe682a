"""Records every figure by version: metrics are verbs on one recorder, on an injected registry.

Dashboards and alerts of users rely on the metrics' names. `docs/metrics.md` explains each of them.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from mypy_extensions import mypyc_attr
from prometheus_client import CollectorRegistry

from pools.process.exits import ExitCause
from poolshift.worker.lm import LMUsage
from routing.rollout.model import Rollout
from routing.telemetry import tallies
from routing.telemetry.families import LMMetrics, RolloutMetrics, ServiceMetrics, WorkerMetrics, error_counter
from routing.telemetry.program_metrics import DEFAULT_LIMIT, ProgramMetrics
from routing.telemetry.spans import SpanOutcome
from routing.versions import Decision, Reason, Version

DURATION_BOUNDS: Final[tuple[float, ...]] = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip
NOT_ORGANIC: Final = frozenset({"shadow", "synthetic"})
"""Operations that no client has asked for."""
OK: Final = "ok"
EXECUTE: Final = "execute"
"""The operation whose series exist from the start; those of the others begin with their first call."""


class _Calls:
    """The series of one operation on one version."""

    def __init__(self, went_well: tallies.Count, duration: tallies.Distribution, waits: tallies.Distribution) -> None:
        self._went_well = went_well
        self.duration = duration
        self.waits = waits
        self._noted: list[tuple[float, float]] = []
        """The durations and waits that are not added up yet."""

    def note(self, seconds: float, queued_s: float) -> None:
        """Counts a call that went well, by and by."""
        self._noted.append((seconds, queued_s))
        if len(self._noted) >= tallies.BATCH:
            self.add_up()

    def add_up(self) -> None:
        """Adds up the calls that are only noted yet."""
        noted, self._noted = self._noted, []
        if noted:
            durations, waits = zip(*noted, strict=True)
            self._went_well.value += len(noted)
            self.duration.observe_all(durations)
            self.waits.observe_all(waits)


@mypyc_attr(allow_interpreted_subclasses=True)  # the bench has silent ones
class Recorder:
    """Counts the work of the router and the pools.

    Metrics that every call counts are tallies (`routing.telemetry.tallies`). Those of the rollout, the workers, the LMs
    and the service are in `routing.telemetry.families`.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        errors: Mapping[str, str],
        program_limit: int = DEFAULT_LIMIT,
        versions: Sequence[Version] = tuple(Version),
    ) -> None:
        """Takes the category of each error code as `errors`, and the `versions` that run.

        At most `program_limit` programs have their own metrics. The series of each code begins at 0, so a rate sees
        the first error. A version that does not run has no series.
        """
        self.programs = ProgramMetrics(registry, program_limit)
        self._requests = tallies.Counter(
            "poolshift_requests_total",
            "Calls that were answered, by version, operation and outcome (ok or an error code).",
            ["pool_version", "operation", "outcome"],
            registry,
            self._add_up,
        )
        self._duration = tallies.Histogram(
            "poolshift_request_duration_seconds",
            "From the routing decision to the answer.",
            ["pool_version", "operation"],
            DURATION_BOUNDS,
            registry,
            self._add_up,
        )
        self._queue_wait = tallies.Histogram(
            "poolshift_queue_wait_seconds",
            "How long a call waited for a worker.",
            ["pool_version"],
            DURATION_BOUNDS,
            registry,
            self._add_up,
        )
        self._errors = error_counter(registry, errors, versions)
        self._decisions = tallies.Counter(
            "poolshift_routing_decisions_total",
            "Decisions, by version and by what made them.",
            ["pool_version", "reason"],
            registry,
        )
        self._rollout = RolloutMetrics(registry)
        self._service = ServiceMetrics(registry)
        self._workers = WorkerMetrics(registry, versions)
        self._lms = LMMetrics(registry, versions)
        # The constructor looks up the series that every call counts in, so that no call has to.
        self._calls: dict[tuple[str, str], _Calls] = {}
        self._waits = {version: self._queue_wait.of(version) for version in versions}
        self._decided = {
            version: {reason: self._decisions.of(version, reason) for reason in Reason} for version in versions
        }
        self.run_again: dict[str, int] = dict.fromkeys(Version, 0)
        """By version: calls that its dead workers left, and that ran once more."""
        for version in versions:
            self._begin(version, EXECUTE)

    def decided(self, decision: Decision) -> None:
        """Counts a decision."""
        self._decided[decision.version][decision.reason].inc()

    def decisions(self) -> dict[tuple[Version, Reason], int]:
        """The calls decided so far, by version and reason."""
        return {
            (version, reason): count.value
            for version, counts in self._decided.items()
            for reason, count in counts.items()
        }

    def answered(
        self,
        version: Version,
        operation: str,
        outcome: str,
        seconds: float,
        queued_s: float,
        trace_id: str | None = None,
    ) -> None:
        """Counts a call that was answered `seconds` after its decision and spent `queued_s` of them in the queue.

        `trace_id` is the trace of a sampled call. OpenMetrics shows it as the exemplar.
        """
        calls = self._calls.get((version, operation)) or self._begin(version, operation)
        if outcome == OK and trace_id is None:
            calls.note(seconds, queued_s)
        else:
            self._requests.of(version, operation, outcome).inc()
            calls.duration.observe(seconds, trace_id)
            calls.waits.observe(queued_s)

    def _begin(self, version: Version, operation: str) -> "_Calls":
        """Begins the series of an operation at 0. The waits of calls that no client has asked for are not counted."""
        waits = tallies.Distribution(DURATION_BOUNDS) if operation in NOT_ORGANIC else self._waits[version]
        calls = _Calls(self._requests.of(version, operation, OK), self._duration.of(version, operation), waits)
        self._calls[version, operation] = calls
        return calls

    def _add_up(self) -> None:
        for calls in self._calls.values():
            calls.add_up()

    def outcomes(self, version: Version) -> dict[str, int]:
        """Counts a version's calls that clients have asked for, by outcome."""
        self._add_up()
        counts: dict[str, int] = {}
        for (of_version, operation, outcome), count in self._requests.values().items():
            if of_version == version and operation not in NOT_ORGANIC:
                counts[outcome] = counts.get(outcome, 0) + count
        return counts

    def latencies(self, version: Version) -> list[int]:
        """Counts a version's calls by duration: one number for each of `DURATION_BOUNDS`, and one for all above."""
        self._add_up()
        counts = [0] * (len(DURATION_BOUNDS) + 1)
        for duration in self._organic(version):
            for index, count in enumerate(duration.counts):
                counts[index] += count
        return counts

    def seconds(self, version: Version) -> tuple[float, float]:
        """Adds up the durations of a version's calls, and their waits for a worker, in seconds."""
        self._add_up()
        return sum([duration.sum for duration in self._organic(version)]), self._waits[version].sum

    def _organic(self, version: Version) -> list[tallies.Distribution]:
        return [
            calls.duration
            for (of_version, operation), calls in self._calls.items()
            if of_version == version and operation not in NOT_ORGANIC
        ]

    def shadowed(self, version: Version, outcome: str, seconds: float) -> None:
        """Counts a shadow call, in the number of requests and in their duration alone."""
        self._requests.of(version, "shadow", outcome).inc()
        self._duration.of(version, "shadow").observe(seconds, None)

    def failed(self, version: Version, code: str, category: str) -> None:
        """Counts a call that was answered with an error."""
        self._errors.labels(version, code, category).inc()

    def spans(self, outcome: SpanOutcome, count: int) -> None:
        """Counts the end of `count` spans."""
        self._service.spans.labels(outcome).inc(count)

    def webhook_delivery(self, outcome: str) -> None:
        """Counts an attempt to deliver a notification, or a notification that is given up."""
        self._service.deliveries.labels(outcome).inc()

    def job_webhook_delivery(self, outcome: str) -> None:
        """Counts an attempt to tell of a job's end, or a notification that is given up."""
        self._service.job_deliveries.labels(outcome).inc()

    def lm_used(self, version: Version, model: str, usage: LMUsage, cost: float | None) -> None:
        """Counts the tokens of an execution, successful or failed, and their cost if it is known."""
        self._lms.used(version, model, usage, cost)

    def shadow_lm_used(self, version: Version, model: str, usage: LMUsage, cost: float | None) -> None:
        """Counts the tokens of a shadow call or of a metric's run, apart from those of callers."""
        self._lms.used_in_shadow(version, model, usage, cost)

    def background_restarted(self, task: str, count: int) -> None:
        """Counts `count` restarts of a background task; 0 makes its series exist."""
        self._service.restarts.labels(task).inc(count)

    def rollout_changed(self, rollout: Rollout) -> None:
        """Shows the rollout that has come into force."""
        self._rollout.canary_percent.set(rollout.canary_percent)
        self._rollout.revision.set(rollout.revision)

    def watch(
        self, *, staleness: Callable[[], float], rollback: Callable[[], float], is_cut_off: Callable[[], bool]
    ) -> None:
        """Sets the functions that each scrape asks for the rollout's figures.

        `staleness` and `rollback` return seconds.
        """
        self._rollout.staleness.set_function(staleness)
        self._rollout.cut_off.set_function(is_cut_off)
        self._rollout.rollback.set_function(rollback)

    def tasks_counted(self, count: int) -> None:
        """Shows the number of unfinished asyncio tasks."""
        self._service.tasks.set(count)

    def console_viewers(self, count: int) -> None:
        """Shows the number of live tabs of the console."""
        self._service.viewers.set(count)

    def scraped(self) -> None:
        """Counts an answer of `/metrics`."""
        self._service.scrapes.inc()

    def v1_ends(self, timestamp: float) -> None:
        """Shows the announced end of V1, in seconds since 1970."""
        self._service.v1_sunset.set(timestamp)

    def draining(self, seconds_left: Callable[[], float]) -> None:
        """Shows a drain that has begun: each scrape asks `seconds_left` for the remaining time."""
        self._service.drain.set_function(seconds_left)

    def worker_started(self, version: str, seconds: float) -> None:
        """Counts a worker that is ready, `seconds` after the pool asked for it."""
        self._workers.starts.labels(version).inc()
        self._workers.start_duration.labels(version).observe(seconds)

    def worker_exited(self, version: str, cause: ExitCause) -> None:
        """Counts a worker that has ended."""
        self._workers.exits.labels(version, cause).inc()

    def loop_blocked(self, version: str, seconds: float) -> None:
        """Counts that a call let no other call of its worker run, for so many seconds."""
        self._workers.loop_blocked.labels(version).observe(seconds)
