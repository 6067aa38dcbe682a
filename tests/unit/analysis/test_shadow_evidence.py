"""Evidence of shadow runs and of quality: a factor's mean is at most 1 under "no worse", and sums are additions."""

import math
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.formulas.bets import FRACTIONS, log_e_above, log_e_below, mean_interval
from analysis.odd_ones import Comparisons, FieldCounts, Odd, calls_until_known, field_log_e, share_of, threshold_of
from analysis.quality import QualityScores

ODDS = st.sampled_from(["v1", "v2", "none", "unknown"])
FIELDS = st.sampled_from([("invoice", "total"), ("invoice", "tax"), ("summary", "text")])
CALLS = st.lists(st.tuples(FIELDS, ODDS | st.none()), max_size=40)
SCORES = st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 1), st.floats(0, 1)), max_size=12)


def compared(calls: Sequence[tuple[tuple[str, str], str | None]]) -> Comparisons:
    comparisons = Comparisons()
    for field, odd in calls:
        if odd is None:
            comparisons.same(field)
        else:
            comparisons.differs(field, odd)  # type: ignore[arg-type]
    return comparisons


@given(st.integers(0, 60), st.integers(0, 60), st.floats(0, 0.5))
def test_an_odd_one_is_no_evidence_in_the_mean_if_v2_is_odd_no_more_often(v1: int, v2: int, on_v2: float) -> None:
    now = math.exp(field_log_e(v1, v2))
    then = (1 - on_v2) * math.exp(field_log_e(v1 + 1, v2)) + on_v2 * math.exp(field_log_e(v1, v2 + 1))
    assert then <= now * (1 + 1e-9)
    assert field_log_e(0, 0) == pytest.approx(0)


@given(
    st.lists(st.floats(-1, 1), min_size=2, max_size=2),
    st.floats(0, 1),
    st.sampled_from([-0.5, -0.05, 0.0, 0.4]),
    st.lists(st.sampled_from([-1.0, -0.25, 0.0, 0.5, 1.0]), max_size=6),
)
def test_a_bet_wins_nothing_in_the_mean_if_the_mean_is_as_claimed(
    values: list[float], share: float, mean: float, past: list[float]
) -> None:
    """For any distribution over two values, after any past."""
    low, high = sorted(values)
    true = low + share * (high - low)
    before = [(value, 1) for value in past]

    def expected(log_e: Callable[[list[tuple[float, int]], float, float], float], bound: float) -> float:
        return (1 - share) * math.exp(log_e([*before, (low, 1)], mean, bound)) + share * math.exp(
            log_e([*before, (high, 1)], mean, bound)
        )

    if true >= mean:
        assert expected(log_e_below, 1.0) <= math.exp(log_e_below(before, mean, 1.0)) * (1 + 1e-9)
    if true <= mean:
        assert expected(log_e_above, -1.0) <= math.exp(log_e_above(before, mean, -1.0)) * (1 + 1e-9)


def test_bets_are_never_ruined() -> None:
    assert all(0 < fraction < 1 for fraction in FRACTIONS)
    assert log_e_below([(1.0, 1000)], 0.0, 1.0) > -math.inf


def test_an_interval_has_the_mean_and_shrinks() -> None:
    wide, narrow = (mean_interval([(1.0, n), (0.0, 3 * n)], -1.0, 1.0, 0.01) for n in (10, 1000))
    assert wide[0] < narrow[0] < 0.25 < narrow[1] < wide[1]
    assert mean_interval([], -1.0, 1.0, 0.01) == pytest.approx((-1.0, 1.0), abs=1e-4)


@pytest.mark.parametrize("fields", [1, 2, 50, 5000])
def test_the_fields_shares_of_alpha_are_at_most_1(fields: int) -> None:
    assert 0 < sum(map(share_of, range(1, fields + 1))) <= 1
    assert threshold_of(fields) > threshold_of(1) or fields == 1


@given(CALLS, CALLS)
def test_comparisons_merge_by_addition(first: list, second: list) -> None:  # type: ignore[type-arg]
    one, other, both = compared(first), compared(second), compared([*first, *second])
    merged, swapped = one.merge(other), other.merge(one)
    assert merged.to_data() == swapped.to_data()
    assert [row[:-1] for row in merged.to_data()] == [row[:-1] for row in both.to_data()]
    ranks = [row[-1] for row in merged.to_data() if row[-1]]
    assert sorted(ranks) == list(range(1, len(ranks) + 1))
    assert one.merge(Comparisons()).to_data() == one.to_data()
    assert Comparisons.from_data(both.to_data()).to_data() == both.to_data()


def test_a_field_that_differs_is_named_and_noise_is_not() -> None:
    comparisons = compared(
        [
            *[(("invoice", "total"), "v2")] * 14,
            *[(("summary", "text"), odd) for odd in ("v1", "v2", "none") * 30],
            *[(("invoice", "tax"), None)] * 500,
        ]
    )
    rows = comparisons.rows()
    assert (rows[0].field, rows[0].differs) == ("total", True)
    assert not any(row.differs for row in rows[1:])
    assert {row.field: row.noise for row in rows} == {"total": 0, "text": 90, "tax": 0}
    assert comparisons.evidence("shadow", 0.001).stratum == "field=invoice.total"
    assert [row.field for row in comparisons.rows("summary")] == ["text"]


def test_a_call_without_a_third_run_says_nothing() -> None:
    comparisons = compared([(("invoice", "total"), "unknown")] * 50)
    (row,) = comparisons.rows()
    assert (row.compared, row.differing, row.differs) == (0, 0, False)


def test_a_difference_stays_found_and_is_forgotten_with_its_definition() -> None:
    comparisons = compared([(("invoice", "total"), "v2")] * 12 + [(("invoice", "total"), "v1")] * 12)
    assert comparisons.rows()[0].differs
    comparisons.forget(lambda program: program == "invoice")
    assert comparisons.rows() == []


@given(SCORES, SCORES)
@settings(max_examples=50)
def test_scores_merge_by_addition(first: list, second: list) -> None:  # type: ignore[type-arg]
    def scores(*parts: list) -> QualityScores:  # type: ignore[type-arg]
        found = QualityScores()
        for program, v1, v2 in (one for part in parts for one in part):
            found.pair(program, v1, v2)
            found.scored(program, 0.25, 0, v1)
            found.scored(program, 0.25, 1, v2)
        return found

    one, other, both = scores(first), scores(second), scores(first, second)
    assert one.merge(other).to_data() == both.to_data() == other.merge(one).to_data()
    assert QualityScores.from_data(both.to_data()).to_data() == both.to_data()
    assert one.merge(other).log_e_worse(None) == pytest.approx(both.log_e_worse(None))


@given(st.floats(0.01, 0.99), st.floats(0, 1), st.floats(0, 1), st.booleans())
def test_an_organic_score_is_no_evidence_in_the_mean_if_v2_is_no_worse(
    w: float, first: float, second: float, against: bool
) -> None:
    """For any assignment probability and any pair of scores: exactly the mean over the assignment's coin."""
    v1, v2 = sorted((round(first, 3), round(second, 3)), reverse=against)
    if against and v1 - v2 < 0.05:
        v2 = max(v1 - 0.05, 0.0)
        if v1 - v2 < 0.0499:
            return

    def log_e(version: int, score: float) -> float:
        found = QualityScores()
        found.scored("p", w, version, score)
        return found._organic("p", 0.05 if against else 0.02, is_worse=not against)

    mean = (1 - w) * math.exp(log_e(0, v1)) + w * math.exp(log_e(1, v2))
    assert mean <= 1 + 1e-6


@pytest.mark.parametrize(("equal", "verdict"), [(0, "unknown"), (5, "unknown"), (148, "unknown"), (149, "alike")])
def test_few_comparisons_show_nothing_yet(equal: int, verdict: str) -> None:
    """A field is alike once surely no more than 5 % of calls really differ."""
    comparisons = Comparisons()
    comparisons.differs(("p", "f"), "unknown")
    for _ in range(equal):
        comparisons.same(("p", "f"))
    (row,) = comparisons.rows()
    assert (row.differs, row.verdict) == (False, verdict)


@pytest.mark.parametrize(
    ("odd", "equal", "verdict"),
    [
        ({"v2": 1}, 10, "suspected"),
        ({"v2": 10}, 2167, "suspected"),
        ({"v2": 12}, 2167, "differs"),
        ({"v1": 1, "v2": 13}, 2167, "suspected"),
        ({"v2": 10, "v1": 1}, 2167, "alike"),
        ({"v2": 2, "v1": 1}, 2167, "alike"),
        ({"v2": 1, "none": 1}, 2167, "alike"),
        ({"v2": 1, "v1": 1}, 30, "unknown"),
        ({"v1": 1}, 30, "unknown"),
    ],
)
def test_a_field_has_one_of_three_words_or_none_yet(odd: dict[Odd, int], equal: int, verdict: str) -> None:
    """If all odd ones are V2's, no interval makes it harmless; neither if the evidence is above half the threshold."""
    comparisons = Comparisons()
    for one, count in odd.items():
        for _ in range(count):
            comparisons.differs(("p", "f"), one)
    for _ in range(equal):
        comparisons.same(("p", "f"))
    (row,) = comparisons.rows()
    assert row.verdict == verdict, row
    assert comparisons.suspects() == ([("p", "f")] if verdict == "suspected" else [])
    assert (row.missing is None) == (verdict in ("differs", "alike"))


@pytest.mark.parametrize(
    ("counts", "verdict"),
    [
        (FieldCounts(100), "alike"),
        (FieldCounts(600, 3, 0, 3, 0, 1), "differs"),
        (FieldCounts(40, 2, 1, 1, 0, 1), "alike"),
        (FieldCounts(400, 120, 40, 70, 10, 1), "differs"),
    ],
)
def test_the_missing_calls_bring_the_word(counts: FieldCounts, verdict: str) -> None:
    """After as many calls more, with the same shares, the field is what it was to be; after half of them it is not."""
    missing = calls_until_known(counts)
    assert missing is not None
    words = []
    for further in (missing * 1.02, missing / 2):
        later = counts.times((counts.compared + further) / counts.compared)
        (row,) = Comparisons({("p", "f"): later}).rows()
        words.append(row.verdict)
    assert words[0] == verdict
    assert words[1] != verdict


def test_all_fields_are_alike_only_without_any_difference() -> None:
    fields = {("p", "f"): FieldCounts(149), ("p", "g"): FieldCounts(148)}
    assert not Comparisons(fields).are_alike()
    assert not Comparisons().are_alike()
    assert Comparisons({**fields, ("p", "g"): FieldCounts(149)}).are_alike()


def test_a_field_that_differs_says_so() -> None:
    comparisons = Comparisons()
    for _ in range(40):
        comparisons.differs(("p", "f"), "v2")
    comparisons.same(("p", "g"))
    first, second = comparisons.rows(most=2)
    assert (first.verdict, second.verdict) == ("differs", "unknown")
    assert [row.field for row in comparisons.rows(most=1)] == ["f"]
