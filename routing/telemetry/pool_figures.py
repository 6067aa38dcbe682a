"""Figures of the pools at a scrape, as Prometheus families."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pools.protocol import PoolSnapshot
from pools.state import WorkerState
from routing.versions import Version


class PoolFigures(Collector):
    """Metrics of the pools' snapshots.

    The handler of a scrape updates the snapshots first, because a collector must not wait for a measurement.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._snapshots: Sequence[PoolSnapshot] = ()
        self._sessions: Mapping[Version, int] = {}
        registry.register(self)

    def update(self, snapshots: Sequence[PoolSnapshot], sessions: Mapping[Version, int]) -> None:
        """Sets the figures for the next scrape."""
        self._snapshots, self._sessions = snapshots, sessions

    def collect(self) -> Iterable[Metric]:
        yield self._workers_by_state()
        yield self._gauge(
            "pool_utilization_ratio", "Busy workers to the pool's size, 0 to 1.", lambda pool: pool.utilization
        )
        yield self._gauge("queue_depth", "Calls that wait for a worker.", lambda pool: pool.queue_depth)
        yield self._gauge(
            "sessions_active",
            "Sessions within their time to live, by the version that served them last.",
            lambda pool: self._sessions.get(Version(pool.version), 0),
        )
        yield self._gauge(
            "worker_resident_memory_bytes",
            "Resident memory of the version's workers.",
            lambda pool: sum(worker.rss_bytes or 0 for worker in pool.workers),
        )
        yield self._gauge(
            "worker_open_fds",
            "Open file descriptors of the version's workers.",
            lambda pool: sum(worker.open_fds or 0 for worker in pool.workers),
        )
        yield self._processor_time()

    def _workers_by_state(self) -> Metric:
        family = GaugeMetricFamily("poolshift_pool_workers", "Workers by state.", labels=["pool_version", "state"])
        for pool in self._snapshots:
            for state in WorkerState:
                family.add_metric([pool.version, state], getattr(pool, state))
        return family

    def _gauge(self, name: str, documentation: str, figure: Callable[[PoolSnapshot], float]) -> Metric:
        family = GaugeMetricFamily(f"poolshift_{name}", documentation, labels=["pool_version"])
        for pool in self._snapshots:
            family.add_metric([pool.version], figure(pool))
        return family

    def _processor_time(self) -> Metric:
        family = CounterMetricFamily(
            "poolshift_worker_cpu_seconds",
            "Processor time of the version's workers, those that have ended included.",
            labels=["pool_version"],
        )
        for pool in self._snapshots:
            family.add_metric([pool.version], pool.cpu_seconds_total)
        return family
