"""A scenario's findings: loads by contender and round, single figures, goals and notes."""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from bench.load import Load

Loads = Mapping[str, Sequence[Load]]
"""By contender, one for each round."""


@dataclass(frozen=True)
class Goal:
    """A promise and what came of it; `is_met` is None where this run cannot tell."""

    text: str
    bound: str
    measured: float | None
    is_met: bool | None
    contender: str | None = None
    """The contender that has made the promise; None if a part of the code has."""


def at_least(text: str, bound: float, measured: float | None, *, contender: str | None = None) -> Goal:
    """A goal that a figure is at least so big."""
    return Goal(text, f"≥ {bound:g}", measured, None if measured is None else measured >= bound, contender)


def at_most(text: str, bound: float, measured: float | None, unit: str = "", *, contender: str | None = None) -> Goal:
    """A goal that a figure is at most so big."""
    return Goal(text, f"≤ {bound:g}{unit}", measured, None if measured is None else measured <= bound, contender)


@dataclass(frozen=True)
class Figure:
    """A single figure."""

    name: str
    value: float
    unit: str


@dataclass(frozen=True)
class Outcome:
    """One scenario's."""

    scenario: str
    conditions: str
    loads: Loads = field(default_factory=dict)
    reference: str | None = None
    """The contender that the others are compared with."""
    figures: Sequence[Figure] = ()
    goals: Sequence[Goal] = ()
    notes: Sequence[str] = ()
    is_at_a_rate: bool = False
    """All have had as many requests as each other: what tells them apart is how long an answer took."""
    on: Mapping[str, str] = field(default_factory=dict)
    """By contender, the features that were on."""


def throughput(load: Load) -> float:
    """Good answers per second."""
    return load.rps


def p99(load: Load) -> float:
    """The 99th percentile of the latency, in milliseconds."""
    return load.p99_ms


def server_cpu(load: Load) -> float:
    """The processor time of all the server's processes for one request, in microseconds."""
    return load.server_cpu_us


def median(loads: Sequence[Load], figure: Callable[[Load], float]) -> float:
    """Returns the median of all rounds."""
    return statistics.median(figure(load) for load in loads)


def spread(loads: Sequence[Load], figure: Callable[[Load], float]) -> float:
    """Between the biggest and the smallest round, as a share of the median."""
    values = [figure(load) for load in loads]
    return (max(values) - min(values)) / statistics.median(values) if statistics.median(values) else 0.0


def ratio(loads: Loads, of: str, to: str, figure: Callable[[Load], float] = throughput) -> float | None:
    """The median of the rounds' ratios, each between neighbours in time; None where one of both did not take part."""
    if of not in loads or to not in loads:
        return None
    pairs = [(figure(one), figure(other)) for one, other in zip(loads[of], loads[to], strict=True)]
    return statistics.median(one / other for one, other in pairs) if all(other for _, other in pairs) else None


def least_ratio(loads: Loads, of: str, to: Iterable[str], figure: Callable[[Load], float] = throughput) -> float | None:
    """The ratio to the one of `to` that looks best by a figure of which more is better; None if none took part."""
    return min(_ratios(loads, of, to, figure), default=None)


def greatest_ratio(loads: Loads, of: str, to: Iterable[str], figure: Callable[[Load], float]) -> float | None:
    """The ratio to the one of `to` that looks best by a figure of which less is better; None if none took part."""
    return max(_ratios(loads, of, to, figure), default=None)


def _ratios(loads: Loads, of: str, to: Iterable[str], figure: Callable[[Load], float]) -> list[float]:
    found = [ratio(loads, of, name, figure) for name in to]
    return [one for one in found if one is not None]
