"""What every call counts: plain additions on the event loop, made into Prometheus families when somebody scrapes.

prometheus_client's own metrics take a lock for each number that they add to, thirteen times for one call, which cost it
more than its routing did (docs/adr/0004). These look the same to whoever scrapes. They may be added to from one thread
alone.
"""

import math
import time
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Generic, TypeVar

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    Exemplar,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

_Bucket = tuple[str, float] | tuple[str, float, Exemplar]


class Count:
    """One series of a counter."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def inc(self) -> None:
        """One more."""
        self.value += 1

    def numbers(self) -> tuple[int]:
        """What a family takes of it."""
        return (self.value,)


class Total:
    """One series of a summary: how many values there were, and their sum."""

    __slots__ = ("count", "sum")

    def __init__(self) -> None:
        self.count = 0
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """One more value."""
        self.count += 1
        self.sum += value

    def numbers(self) -> tuple[int, float]:
        """What a family takes of it."""
        return self.count, self.sum


class Distribution:
    """One series of a histogram."""

    __slots__ = ("bounds", "counts", "exemplars", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        """`bounds` are the upper ones of the buckets, ascending, without infinity."""
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0
        self.exemplars: dict[int, Exemplar] = {}

    def observe(self, value: float, trace_id: str | None = None) -> None:
        """One more value; `trace_id` is its exemplar."""
        bucket = bisect_left(self.bounds, value)
        self.counts[bucket] += 1
        self.sum += value
        if trace_id is not None:
            self.exemplars[bucket] = Exemplar({"trace_id": trace_id}, value, time.time())

    def numbers(self) -> tuple[list[_Bucket], float]:
        """What a family takes of it."""
        return self._buckets(), self.sum

    def _buckets(self) -> list[_Bucket]:
        """As Prometheus has them: each counts what is in those below it as well."""
        buckets: list[_Bucket] = []
        cumulated = 0
        for index, count in enumerate(self.counts):
            cumulated += count
            bound = self.bounds[index] if index < len(self.bounds) else math.inf
            name: str = floatToGoString(bound)  # type: ignore[no-untyped-call]
            exemplar = self.exemplars.get(index)
            buckets.append((name, cumulated) if exemplar is None else (name, cumulated, exemplar))
        return buckets


_Series = TypeVar("_Series", Count, Total, Distribution)


class _Family(Collector, Generic[_Series]):
    """A metric; its series come to be as somebody asks for them, and stay."""

    _family: ClassVar[Any]
    """What prometheus_client calls such a metric at a scrape."""

    def __init__(self, name: str, documentation: str, labels: Sequence[str], registry: CollectorRegistry) -> None:
        self._name = name
        self._documentation = documentation
        self._labels = labels
        self._series: dict[tuple[str, ...], _Series] = {}
        registry.register(self)

    def of(self, *values: str) -> _Series:
        """The series with these labels' values."""
        series = self._series.get(values)
        if series is None:
            series = self._series[values] = self._new()
        return series

    def describe(self) -> Iterable[Metric]:
        """What the registry holds against other metrics' names."""
        yield self._family(self._name, self._documentation, labels=self._labels)

    def collect(self) -> Iterable[Metric]:
        family = self._family(self._name, self._documentation, labels=self._labels)
        for values, one in list(self._series.items()):
            family.add_metric(values, *one.numbers())
        yield family

    def _new(self) -> _Series:
        raise NotImplementedError


class Counter(_Family[Count]):
    """Only ever goes up."""

    _family = CounterMetricFamily

    def _new(self) -> Count:
        return Count()


class Summary(_Family[Total]):
    """How many, and how much in all."""

    _family = SummaryMetricFamily

    def _new(self) -> Total:
        return Total()


class Histogram(_Family[Distribution]):
    """How many were at most so large."""

    _family = HistogramMetricFamily

    def __init__(
        self,
        name: str,
        documentation: str,
        labels: Sequence[str],
        bounds: Sequence[float],
        registry: CollectorRegistry,
    ) -> None:
        """`bounds` are the upper ones of the buckets, ascending, without infinity."""
        self._bounds = tuple(bounds)
        super().__init__(name, documentation, labels, registry)

    def _new(self) -> Distribution:
        return Distribution(self._bounds)
