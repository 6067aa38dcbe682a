"""The sampled calls: as independent draws would have them, though a number is drawn for each sampled one alone."""

import itertools
import random

import msgspec
import pytest

from routing.telemetry.call_trace import CallTrace, Parent
from routing.telemetry.spans import Span
from routing.telemetry.tracing import Sampling, Tracing

CALLS = 40_000


class Unheard:
    """Takes spans."""

    def offer(self, span: Span | msgspec.Raw) -> None:
        """Takes one."""

    def lost(self, spans: int) -> None:
        """Takes none."""


class Begun:
    """Begins calls, and keeps the ids of the traces that were sampled."""

    def __init__(self, ratio: float) -> None:
        self.ids: list[str] = []
        self._tracing = Tracing(Sampling(ratio, honours_parent=True), self._new)

    def _new(self, trace_id: str, parent: Parent | None) -> CallTrace:
        self.ids.append(trace_id)
        return CallTrace(Unheard(), trace_id, parent)

    def is_sampled(self) -> bool:
        """Begins a call."""
        return self._tracing.begin({}).trace is not None


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Draws the same numbers each time, so that no bound is ever missed by chance."""
    random.seed(17)


@pytest.mark.parametrize("ratio", [0.5, 0.1, 0.01])
def test_the_share_is_that_of_the_setting(ratio: float) -> None:
    """Within five standard deviations of a binomial distribution."""
    begun = Begun(ratio)
    sampled = sum(begun.is_sampled() for _ in range(CALLS))
    assert abs(sampled - CALLS * ratio) < 5 * (CALLS * ratio * (1 - ratio)) ** 0.5


def test_the_next_call_is_sampled_as_often_as_any() -> None:
    """Gaps have no memory: a call behind a sampled one, or behind one that was not, has the same chance."""
    begun = Begun(0.3)
    sampled = [begun.is_sampled() for _ in range(CALLS)]
    behind_sampled = [this for last, this in itertools.pairwise(sampled) if last]
    behind_others = [this for last, this in itertools.pairwise(sampled) if not last]
    for calls in (behind_sampled, behind_others):
        assert abs(sum(calls) / len(calls) - 0.3) < 5 * (0.3 * 0.7 / len(calls)) ** 0.5


def test_every_service_would_sample_the_ids() -> None:
    """The low 64 bits of an id are under the ratio's bound, as TraceIdRatioBased asks; the others are free."""
    begun = Begun(0.25)
    while len(begun.ids) < 200:
        begun.is_sampled()
    assert all(int(one, 16) & (2**64 - 1) < 2**62 for one in begun.ids)
    assert len({one[:16] for one in begun.ids}) == 200
    assert all(len(one) == 32 for one in begun.ids)


def test_all_or_none() -> None:
    """The ends of the scale."""
    assert all(Begun(1.0).is_sampled() for _ in range(100))
    assert not any(Begun(0.0).is_sampled() for _ in range(100))
