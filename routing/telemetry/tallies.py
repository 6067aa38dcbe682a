"""Counters of every call: plain additions on the event loop, made into Prometheus families at a scrape.

prometheus_client's own metrics take a lock for each number, 13 times for one call, which cost more than the call's
routing (docs/adr/0004). A scrape of these looks the same. Only one thread may add to them, and scrape.

Who counts a call may note its numbers and add them up with those of many others. The additions of one call take most of
their time to fetch code and counters into the processor's caches, which the next call's other work drives out again.
"""

import math
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, Final, Generic, TypeVar

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

BATCH: Final = 256
"""The number of calls that are noted before they are added up."""
_Bucket = tuple[str, float] | tuple[str, float, Exemplar]


class Count:
    """A series of a counter."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def inc(self) -> None:
        """Adds 1."""
        self.value += 1

    def numbers(self) -> tuple[int]:
        """Returns the numbers for a family."""
        return (self.value,)


class Total:
    """A series of a summary: the number of values, and their sum."""

    __slots__ = ("count", "sum")

    def __init__(self) -> None:
        self.count = 0
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Adds a value."""
        self.count += 1
        self.sum += value

    def observe_all(self, values: Sequence[float]) -> None:
        """Adds values."""
        self.count += len(values)
        self.sum += sum(values)

    def numbers(self) -> tuple[int, float]:
        """Returns the numbers for a family."""
        return self.count, self.sum


class Distribution:
    """A series of a histogram."""

    __slots__ = ("bounds", "counts", "exemplars", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        """Takes the buckets' upper `bounds`, ascending, without infinity."""
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0
        self.exemplars: dict[int, Exemplar] = {}

    def observe(self, value: float, trace_id: str | None = None) -> None:
        """Adds a value; `trace_id` is its exemplar."""
        bucket = bisect_left(self.bounds, value)
        self.counts[bucket] += 1
        self.sum += value
        if trace_id is not None:
            self.exemplars[bucket] = Exemplar({"trace_id": trace_id}, value, time.time())

    def observe_all(self, values: Sequence[float]) -> None:
        """Adds values. A look for each bound in all of them, sorted, takes less than a look for each of them."""
        ordered = sorted(values)
        counts, below = self.counts, 0
        for bucket, bound in enumerate(self.bounds):
            if below == len(ordered):
                break
            up_to = bisect_right(ordered, bound, below)
            counts[bucket] += up_to - below
            below = up_to
        counts[-1] += len(ordered) - below
        self.sum += sum(values)

    def numbers(self) -> tuple[list[_Bucket], float]:
        """Returns the numbers for a family."""
        return self._buckets(), self.sum

    def _buckets(self) -> list[_Bucket]:
        """Returns Prometheus' buckets, each of which also counts the values of the buckets below."""
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
    """A metric. A series exists from the first time that somebody asks for it."""

    _family: ClassVar[Any]
    """The class that prometheus_client has for such a metric at a scrape."""

    def __init__(
        self,
        name: str,
        documentation: str,
        labels: Sequence[str],
        registry: CollectorRegistry,
        add_up: Callable[[], None] | None = None,
    ) -> None:
        """Calls `add_up` before it is read, to have what was only noted added."""
        self._name = name
        self._documentation = documentation
        self._labels = labels
        self._add_up = add_up
        self._series: dict[tuple[str, ...], _Series] = {}
        registry.register(self)

    def of(self, *values: str) -> _Series:
        """Returns the series with these values of the labels."""
        series = self._series.get(values)
        if series is None:
            series = self._series[values] = self._new()
        return series

    def forget(self, first: str) -> None:
        """Drops the series whose first label has this value."""
        for values in [values for values in self._series if values[0] == first]:
            del self._series[values]

    def describe(self) -> Iterable[Metric]:
        """Describes the metric, so that the registry finds duplicate names."""
        yield self._family(self._name, self._documentation, labels=self._labels)

    def collect(self) -> Iterable[Metric]:
        if self._add_up is not None:
            self._add_up()
        family = self._family(self._name, self._documentation, labels=self._labels)
        for values, one in list(self._series.items()):
            family.add_metric(values, *one.numbers())
        yield family

    def _new(self) -> _Series:
        raise NotImplementedError


class Counter(_Family[Count]):
    """A metric that only goes up."""

    _family = CounterMetricFamily

    def _new(self) -> Count:
        return Count()

    def values(self) -> dict[tuple[str, ...], int]:
        """Returns the value of each series, by its labels."""
        return {labels: one.value for labels, one in self._series.items()}


class Summary(_Family[Total]):
    """A metric of values: their number and sum."""

    _family = SummaryMetricFamily

    def _new(self) -> Total:
        return Total()


class Histogram(_Family[Distribution]):
    """A metric of values: their number by upper bounds, and their sum."""

    _family = HistogramMetricFamily

    def __init__(
        self,
        name: str,
        documentation: str,
        labels: Sequence[str],
        bounds: Sequence[float],
        registry: CollectorRegistry,
        add_up: Callable[[], None] | None = None,
    ) -> None:
        """Takes the buckets' upper `bounds`, ascending, without infinity; and `add_up` as any metric."""
        self._bounds = tuple(bounds)
        super().__init__(name, documentation, labels, registry, add_up)

    def _new(self) -> Distribution:
        return Distribution(self._bounds)
