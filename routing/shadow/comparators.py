"""Compares two values of one output, as the signature's `compare` says."""

import heapq
from collections.abc import Callable
from typing import Any, Final

import msgspec
from rapidfuzz import fuzz

from poolshift.worker.definitions import Field

Comparator = Callable[[Any, Any], bool]
"""Tells if two JSON values count as the same."""

MAX_TEXT_LENGTH: Final = 20_000
"""Characters of a text that are compared for similarity; the rest must be equal."""
_SORTED_AT_ONCE: Final = 5000
_ROUNDING: Final = 2**-52
"""Relative error of a difference of two floats: 1.25 and 1.24 differ by 0.01."""
_canonical: Final = msgspec.json.Encoder(order="sorted").encode


def comparator_of(field: Field) -> Comparator | None:
    """Returns the comparison of an output; None if the output is ignored."""
    compare = field.compare
    if isinstance(compare, dict):
        (kind, value), *_ = compare.items()
        if kind == "number":
            return lambda first, second: _within(first, second, value)
        return lambda first, second: _similar(first, second, 100 * value)
    return {"ignore": None, "unordered": same_unordered}.get(compare or "exact", same)


def same(first: Any, second: Any) -> bool:
    """Tells if two values have the same JSON, whatever the order of an object's members: 1 is not 1.0, nor true."""
    return _canonical(first) == _canonical(second)


def same_unordered(first: Any, second: Any) -> bool:
    """Tells if two values are the same if the order in arrays does not count, at any depth."""
    return _canonical(_sorted(first)) == _canonical(_sorted(second))


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return _in_order([_sorted(inner) for inner in value])
    return value


def _in_order(values: list[Any]) -> list[Any]:
    """Sorts values by their JSON. A sort of many at once would keep all other threads from running."""
    runs = [sorted(values[start : start + _SORTED_AT_ONCE], key=_canonical) for start in _starts(values)]
    return runs[0] if len(runs) == 1 else list(heapq.merge(*runs, key=_canonical))


def _starts(values: list[Any]) -> range:
    return range(0, max(len(values), 1), _SORTED_AT_ONCE)


def _within(first: Any, second: Any, tolerance: float) -> bool:
    """Tells if numbers differ by at most `tolerance`, at any depth, and all else is the same."""
    if _is_number(first) and _is_number(second):
        return bool(abs(first - second) <= tolerance + _ROUNDING * max(abs(first), abs(second)))
    return _alike(first, second, lambda one, other: _within(one, other, tolerance))


def _similar(first: Any, second: Any, percent: float) -> bool:
    """Tells if texts are similar by at least `percent`, at any depth, and all else is the same."""
    if not (isinstance(first, str) and isinstance(second, str)):
        return _alike(first, second, lambda one, other: _similar(one, other, percent))
    if first == second:
        return True
    if first[MAX_TEXT_LENGTH:] != second[MAX_TEXT_LENGTH:]:
        return False
    return bool(fuzz.ratio(first[:MAX_TEXT_LENGTH], second[:MAX_TEXT_LENGTH], score_cutoff=percent) >= percent)


def _alike(first: Any, second: Any, is_same: Comparator) -> bool:
    """Compares the items of arrays and the members of objects by `is_same`, and all else for equality."""
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(is_same(first[key], second[key]) for key in first)
    if isinstance(first, list) and isinstance(second, list):
        return len(first) == len(second) and all(map(is_same, first, second))
    return same(first, second)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
