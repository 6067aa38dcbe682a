"""The console's figures and sentences: one point a second, quantiles as Prometheus has them."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.guardrails import GUARDRAILS
from analysis.verdict import Detectable, Row, Tally, Until
from app.console import words
from app.console.figures import KEPT_S, Counts, Run, Series, Tick, quantile_ms
from app.console.live import to_next_beat
from routing.telemetry.recorder import DURATION_BOUNDS
from routing.versions import Version

BUCKETS = len(DURATION_BOUNDS) + 1


def tick(at: int, calls: int = 0) -> Tick:
    durations = {version: [calls, *[0] * (BUCKETS - 1)] for version in Version}
    return Tick(at, {Run(None, 0.0): Counts(durations, {})}, dict.fromkeys(Version, 0))


@given(st.lists(st.integers(0, 3 * KEPT_S), max_size=200))
def test_each_second_has_one_point_at_most(moments: Sequence[int]) -> None:
    """Whatever order ticks come in: the points rise, none is older than the chart is long, and none comes twice."""
    series = Series()
    for at in moments:
        series.add(tick(at))
    shown = [point.at for point in series.points()]
    assert shown == sorted(set(shown))
    assert all(at > shown[-1] - KEPT_S for at in shown)


def test_a_point_is_the_rate_since_the_tick_before() -> None:
    series = Series()
    assert series.add(tick(10, calls=100)) is None
    point = series.add(tick(12, calls=150))
    assert point is not None
    assert point.calls == (25, 25)


@given(st.lists(st.integers(0, 50), min_size=BUCKETS, max_size=BUCKETS), st.sampled_from([0.5, 0.95, 0.99]))
def test_a_quantile_is_in_the_bucket_that_has_it(counts: Sequence[int], q: float) -> None:
    """At most one bucket's width from the true value, and unknown without a call."""
    found = quantile_ms(counts, q)
    if not sum(counts):
        assert found is None
        return
    assert found is not None
    rank, below = q * sum(counts), 0
    for index, count in enumerate(counts):
        if count and below + count >= rank:
            low = DURATION_BOUNDS[index - 1] if index else 0.0
            high = DURATION_BOUNDS[min(index, len(DURATION_BOUNDS) - 1)]
            assert 1000 * low - 1e-6 <= found <= 1000 * max(low, high) + 1e-6
            return
        below += count
    raise AssertionError("no bucket has the quantile")


ROW = Row("engine", "rollback", 0.0, 6.9, Tally(9, 0), Tally(9, 0), (0.5, 2.0), "all", Detectable(2.0, None, None))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"log_e": 7.0}, "against V2"),
        ({"log_e": 3.5, "is_shown": True}, "suspected"),
        ({"suspects": ("invoice.total",), "is_shown": True}, "suspected"),
        ({"is_shown": True}, "no worse"),
        ({}, "not yet known"),
        ({"until_shown": Until(1200, None)}, "not yet known: 1,200 calls"),
        ({"until_shown": Until(1200, 240.0)}, "not yet known: 1,200 calls, 4 minutes"),
    ],
)
def test_no_evidence_against_v2_is_no_evidence_for_it(changes: dict[str, Any], said: str) -> None:
    """A guardrail says "no worse" only if that is shown, and else what is missing."""
    assert words.finding(replace(ROW, **changes)) == said


def test_every_guardrail_has_its_words() -> None:
    """In the console."""
    assert list(words.GUARDRAILS) == [one.name for one in GUARDRAILS]


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0 %"), (5.0, "5 %"), (0.01, "0.01 %"), (12.5, "12.5 %"), (100, "100 %"), (None, "–")]
)
def test_a_percentage_has_the_decimals_that_it_needs(value: float | None, text: str) -> None:
    assert words.percent(value) == text


def test_times_are_told_in_their_largest_unit() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    told = [words.ago(now - timedelta(seconds=seconds), now) for seconds in (0, 1, 59, 60, 7200, 90_000)]
    assert told == ["just now", "1 second ago", "59 seconds ago", "1 minute ago", "2 hours ago", "1 day ago"]


@pytest.mark.parametrize("now", [100.0, 100.019, 100.02, 100.5, 100.999, 100.99999])
def test_a_timer_that_rings_early_does_not_show_a_second_twice(now: float) -> None:
    """The next frame is of the next second, even if the timer rings some milliseconds before its time, or after it."""
    for early_s in (-0.05, 0.0, 0.01):
        assert int(now + to_next_beat(now) - early_s) == 101
