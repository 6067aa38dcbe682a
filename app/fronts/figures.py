"""Figures of the fronts at a scrape, as Prometheus families."""

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pools.process.stats import process_stats


class FrontFigures(Collector):
    """Metrics of all fronts together."""

    def __init__(self, registry: CollectorRegistry, pids: Callable[[], Iterable[int]]) -> None:
        """Takes what tells the processes that serve."""
        self._pids = pids
        self._cpu_of: dict[int, float] = {}
        self._cpu_of_the_dead_s = 0.0
        self.starts = 0
        """The fronts that have served, so far."""
        self.direct_calls = 0
        """The calls that fronts have run by themselves."""
        registry.register(self)

    def collect(self) -> Iterable[Metric]:
        """Measures the fronts now."""
        stats = {pid: process_stats(pid) for pid in self._pids()}
        found = {pid: one.cpu_seconds for pid, one in stats.items() if one is not None}
        self._cpu_of_the_dead_s += sum(seconds for pid, seconds in self._cpu_of.items() if pid not in found)
        self._cpu_of = found
        yield GaugeMetricFamily("poolshift_fronts", "Front processes that serve.", value=len(stats))
        yield CounterMetricFamily(
            "poolshift_front_starts", "Front processes that have begun to serve.", value=self.starts
        )
        yield CounterMetricFamily(
            "poolshift_front_calls", "Calls that fronts have run by themselves.", value=self.direct_calls
        )
        yield CounterMetricFamily(
            "poolshift_front_cpu_seconds",
            "Processor time of the fronts, those that have ended included.",
            value=self._cpu_of_the_dead_s + sum(found.values()),
        )
        memory = sum(one.rss_bytes for one in stats.values() if one is not None)
        yield GaugeMetricFamily("poolshift_front_resident_memory_bytes", "Resident memory of the fronts.", value=memory)
