"""Comparators of shadow calls: each is reflexive and symmetric, and exactly as lenient as it says."""

import json
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api.programs.body import OutputField
from poolshift.worker.definitions import ComparisonMeasure, ComparisonName, Field, Signature
from routing.catalog.definitions import decode_definition
from routing.shadow.comparators import MAX_DEPTH, comparator_of, is_too_deep
from routing.shadow.comparison import ERROR_FIELD, MAX_OUTPUT_BYTES, TOO_LARGE, Comparison, Outcome

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-1, 1) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=8,
)
KINDS: list[Any] = [
    None,
    *(name for name in get_args(ComparisonName) if name != "ignore"),
    *({measure: bound} for measure in get_args(ComparisonMeasure) for bound in (0.1, 0.8)),
]
"""Every kind of comparison but the one that compares nothing."""
COMPARES = st.sampled_from(KINDS)


def outcome(**outputs: Any) -> Outcome:
    return Outcome(json.dumps(outputs).encode())


def comparison(**compare: Any) -> Comparison:
    return Comparison(Signature((), tuple(Field(name, "any", compare=how) for name, how in compare.items())))


@given(JSON, st.integers(0, 300), st.booleans())
def test_depth_is_measured_as_it_is(value: Any, levels: int, is_object: bool) -> None:
    """Whatever brackets and quotes the texts within have."""
    for _ in range(levels):
        value = {'}]"\\': value} if is_object else ["[", value, '"]']
    text = json.dumps(value, separators=(",", ":")).encode()
    assert is_too_deep(text) == (depth(value) > MAX_DEPTH)


def depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth, inner), default=0)


@pytest.mark.parametrize("compare", KINDS)
def test_values_that_are_nested_too_deeply(compare: Any) -> None:
    """If both are, nothing is known unless they are equal to the byte; if one is, they differ."""
    compared = comparison(out=compare, flat=None)

    def nested(levels: int, leaf: str) -> Outcome:
        return Outcome(b'{"out":%s"%s"%s,"flat":1}' % (b"[" * levels, leaf.encode(), b"]" * levels))

    for levels in (MAX_DEPTH + 1, 900, 100_000):
        assert compared.compare(nested(levels, "a"), nested(levels, "a"))["out"] is True
        assert compared.compare(nested(levels, "a"), nested(levels, "b"))["out"] is None
    assert compared.compare(nested(900, "a"), nested(3, "a"))["out"] is False
    assert compared.compare(nested(MAX_DEPTH, "a"), nested(MAX_DEPTH, "b"))["out"] is False


@given(COMPARES, JSON, JSON)
def test_every_comparator_is_reflexive_and_symmetric(compare: Any, first: Any, second: Any) -> None:
    comparator = comparator_of(Field("out", "any", compare=compare))
    assert comparator is not None
    assert comparator(first, first)
    assert comparator(first, second) == comparator(second, first)


@pytest.mark.parametrize("compare", KINDS[1:])
def test_a_program_may_ask_for_every_kind(compare: Any) -> None:
    body = {"name": "out", "type": "any", "compare": compare}
    assert OutputField.model_validate(body).model_dump()["compare"] == compare


@pytest.mark.parametrize("compare", ["fuzzy", {"fuzzy": 0.9}, {}, {"number": 0.1, "text": 0.9}])
def test_a_kind_that_is_not_known_is_refused(compare: Any) -> None:
    """Such as one that a newer replica has stored. It is not taken for another kind."""
    field = {"name": "out", "type": "any", "compare": compare}
    definition = {"program_type": "python", "signature": {"inputs": [], "outputs": [field]}}
    with pytest.raises(msgspec.ValidationError, match="compare"):
        decode_definition(msgspec.json.encode(definition))
    with pytest.raises((AssertionError, ValueError)):
        comparator_of(Field("out", "any", compare=compare))


@pytest.mark.parametrize(
    ("compare", "first", "second", "is_same"),
    [
        (None, {"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
        (None, 1, 1.0, False),
        (None, 1, True, False),
        (None, [1, 2], [2, 1], False),
        ("unordered", [1, 2, 2], [2, 1, 2], True),
        ("unordered", [1, 2, 2], [2, 1, 1], False),
        ("unordered", {"tags": [[2, 1], "x"]}, {"tags": ["x", [1, 2]]}, True),
        ({"number": 0.01}, 1.24, 1.25, True),
        ({"number": 0.01}, 1.24, 1.26, False),
        ({"number": 0.01}, {"lines": [1, 2.005]}, {"lines": [1.0, 2]}, True),
        ({"number": 0.5}, 0, True, False),
        ({"number": 0.5}, "a", "b", False),
        ({"text": 0.9}, "the cat sat on the mat", "the cat sat on the mat.", True),
        ({"text": 0.9}, "the cat sat on the mat", "a dog", False),
        ({"text": 0.9}, ["same text here"], ["same text hero"], True),
    ],
)
def test_a_comparator_is_as_lenient_as_it_says(compare: Any, first: Any, second: Any, is_same: bool) -> None:
    found = comparison(out=compare).compare(outcome(out=first), outcome(out=second))
    assert found == {ERROR_FIELD: True, "out": is_same}


def test_long_texts_are_compared_in_bounded_time() -> None:
    first, second = "ab" * 400_000, "ba" * 400_000
    assert not comparison(out={"text": 0.5}).compare(outcome(out=first), outcome(out=second))["out"]


def test_an_ignored_output_is_in_no_comparison() -> None:
    assert comparison(out="ignore").compare(outcome(out=1), outcome(out=2)) == {ERROR_FIELD: True}


def test_errors_compare_by_code_and_outputs_do_not_count_then() -> None:
    compared = comparison(out=None)
    assert compared.compare(Outcome(None, "program_error"), Outcome(None, "program_error")) == {ERROR_FIELD: True}
    assert compared.compare(outcome(out=1), Outcome(None, "program_error")) == {ERROR_FIELD: False}


def test_outputs_that_are_too_large_are_compared_by_that() -> None:
    large = Outcome.of_outputs(b'{"out": "' + b"x" * MAX_OUTPUT_BYTES + b'"}', 1.0)
    assert (large.outputs, large.code) == (None, TOO_LARGE)
    assert comparison(out=None).compare(outcome(out="x"), large) == {ERROR_FIELD: False}


@pytest.mark.parametrize(
    ("first", "second", "third", "odd"),
    [(1, 2, 1, "v2"), (1, 2, 2, "v1"), (1, 2, 3, "none")],
)
def test_the_third_run_says_who_is_the_odd_one(first: int, second: int, third: int, odd: str) -> None:
    runs = [outcome(out=value) for value in (first, second, third)]
    assert comparison(out=None).odd_ones(["out"], *runs) == {"out": odd}
    failed = [Outcome(None, "program_error") if value == 2 else outcome(out=0) for value in (first, second, third)]
    expected = "none" if odd == "none" and failed[2].code else odd
    if third != 3:
        assert comparison(out=None).odd_ones([ERROR_FIELD], *failed) == {ERROR_FIELD: expected}


@pytest.mark.parametrize("third", [1, 3])
def test_a_tolerant_third_run_that_fits_both_says_nothing(third: int) -> None:
    runs = [outcome(out=value) for value in (0.0, 2.0, 1.0 if third == 1 else 9.0)]
    assert comparison(out={"number": 1.0}).odd_ones(["out"], *runs) == {"out": "none"}
