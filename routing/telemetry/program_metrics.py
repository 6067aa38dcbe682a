"""Metrics of single programs: of those that ask for them, and of a bounded number."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Final

from prometheus_client import CollectorRegistry

from pools.calls import Program
from poolshift.worker.definitions import Definition
from routing.errors import QuotaExceeded
from routing.telemetry import tallies
from routing.versions import Version

DEFAULT_LIMIT: Final = 50
_OK: Final = "ok"
_DURATION_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class ProgramMetrics:
    """The programs that have series, and their series. Programs of the same id, in several sessions, share theirs."""

    def __init__(self, registry: CollectorRegistry, limit: int = DEFAULT_LIMIT) -> None:
        """At most `limit` programs get series."""
        self._limit = limit
        self._ids: dict[str, str] = {}
        """The ids of the programs that have series, by key."""
        self._coming = 0
        """Programs that are about to be stored."""
        self._requests = tallies.Counter(
            "poolshift_program_requests_total",
            "Calls of programs with metrics of their own, by version and outcome (ok or an error code).",
            ["program", "pool_version", "outcome"],
            registry,
        )
        self._duration = tallies.Histogram(
            "poolshift_program_duration_seconds",
            "From the routing decision to the answer, for programs with metrics of their own.",
            ["program", "pool_version"],
            _DURATION_BUCKETS,
            registry,
        )

    # --- for the catalogue

    @contextmanager
    def place_for(self, definition: Definition, key: str | None = None) -> Iterator[None]:
        """Holds a place for a program while it is stored, so that programs created at once count each other.

        `key` is that of the program if it exists already; then it may have a place.

        Raises:
            QuotaExceeded: all places are taken.
        """
        if not wants_metrics(definition) or key in self._ids:
            yield
            return
        if len(self._ids) + self._coming >= self._limit:
            raise QuotaExceeded("PROGRAM_METRICS_LIMIT", self._limit, "programs with metrics of their own")
        self._coming += 1
        try:
            yield
        finally:
            self._coming -= 1

    def note(self, program: Program) -> None:
        """Takes note of a program that is new, or whose definition has changed: its series begin, or end."""
        if not wants_metrics(program.definition):
            self.end(program.key)
        elif program.key not in self._ids and len(self._ids) < self._limit:
            self._ids[program.key] = program.id
            for version in Version:
                self._requests.of(program.id, version, _OK)
                self._duration.of(program.id, version)

    def end(self, key: str) -> None:
        """Ends the series of a program that is gone, unless another program has the same id."""
        program_id = self._ids.pop(key, None)
        if program_id is not None and program_id not in self._ids.values():
            self._requests.forget(program_id)
            self._duration.forget(program_id)

    def retain(self, keys: Collection[str]) -> None:
        """Ends the series of all programs but these."""
        for key in self._ids.keys() - set(keys):
            self.end(key)

    # --- for the router

    def answered(
        self, program: Program, version: Version, outcome: str, seconds: float, trace_id: str | None = None
    ) -> None:
        """Counts a call that was answered `seconds` after its decision, if its program has series and is not gone."""
        if program.key in self._ids:
            self._requests.of(program.id, version, outcome).inc()
            self._duration.of(program.id, version).observe(seconds, trace_id)


def wants_metrics(definition: Definition) -> bool:
    """Tells if a program has asked for metrics of its own."""
    return definition.limits is not None and definition.limits.metrics
