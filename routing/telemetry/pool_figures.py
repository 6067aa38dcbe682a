"""Figures of the pools at the moment of a scrape, as Prometheus families."""

from collections.abc import Iterable, Mapping, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pools.protocol import PoolSnapshot
from pools.state import WorkerState
from routing.versions import Version


class PoolFigures(Collector):
    """Gauges over snapshots. A scrape takes the snapshots first, since measuring workers must not block."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._snapshots: Sequence[PoolSnapshot] = ()
        self._sessions: Mapping[Version, int] = {}
        registry.register(self)

    def update(self, snapshots: Sequence[PoolSnapshot], sessions: Mapping[Version, int]) -> None:
        """Sets the figures for the next scrape."""
        self._snapshots, self._sessions = snapshots, sessions

    def collect(self) -> Iterable[Metric]:
        states = GaugeMetricFamily("poolshift_pool_workers", "Workers by state.", labels=["pool_version", "state"])
        for snapshot in self._snapshots:
            for state in WorkerState:
                states.add_metric([snapshot.version, state], getattr(snapshot, state))
        yield states
        yield self._gauge(
            "pool_utilization_ratio",
            "Busy workers to the pool's size, 0 to 1.",
            {one.version: one.utilization for one in self._snapshots},
        )
        yield self._gauge(
            "queue_depth", "Calls that wait for a worker.", {one.version: one.queue_depth for one in self._snapshots}
        )
        yield self._gauge(
            "sessions_active",
            "Sessions within their time to live, by the version that served them last.",
            {one.version: self._sessions.get(Version(one.version), 0) for one in self._snapshots},
        )
        yield self._gauge(
            "worker_resident_memory_bytes",
            "Resident memory of the version's workers.",
            {one.version: sum(worker.rss_bytes or 0 for worker in one.workers) for one in self._snapshots},
        )
        yield self._gauge(
            "worker_open_fds",
            "Open file descriptors of the version's workers.",
            {one.version: sum(worker.open_fds or 0 for worker in one.workers) for one in self._snapshots},
        )
        cpu = CounterMetricFamily(
            "poolshift_worker_cpu_seconds",
            "Processor time of the version's workers, those that have ended included.",
            labels=["pool_version"],
        )
        for snapshot in self._snapshots:
            cpu.add_metric([snapshot.version], snapshot.cpu_seconds_total)
        yield cpu

    def _gauge(self, name: str, documentation: str, values: Mapping[str, float]) -> Metric:
        family = GaugeMetricFamily(f"poolshift_{name}", documentation, labels=["pool_version"])
        for version, value in values.items():
            family.add_metric([version], value)
        return family
