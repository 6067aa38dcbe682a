"""Compares two values of one output, as the signature's `compare` says."""

import heapq
import re
from collections.abc import Callable, Iterator
from typing import Any, Final, assert_never

import msgspec
from rapidfuzz import fuzz

from poolshift.worker.definitions import ComparisonMeasure, Field

Comparator = Callable[[Any, Any], bool]
"""Tells if two JSON values count as the same, in whichever order they come.

It must be symmetric: the verdict rests on runs that can be exchanged (docs/shadow.md).
"""

MAX_TEXT_LENGTH: Final = 20_000
"""Characters of a text that are compared for similarity; the rest must be equal."""
MAX_DEPTH: Final = 200
"""Levels of arrays and objects up to which values are compared."""
_STRING: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"')
_SQUARE: Final = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
_SORTED_AT_ONCE: Final = 5000
_ROUNDING: Final = 2**-52
"""Relative error of a difference of two floats: 1.25 and 1.24 differ by 0.01."""
_canonical: Final = msgspec.json.Encoder(order="sorted").encode


def comparator_of(field: Field) -> Comparator | None:
    """Returns the comparison of an output; None if the output is ignored."""
    compare = field.compare
    if isinstance(compare, dict):
        ((measure, bound),) = compare.items()
        return _measuring(measure, bound)
    match compare:
        case None | "exact":
            return same
        case "unordered":
            return same_unordered
        case "ignore":
            return None
        case unknown:
            assert_never(unknown)


def _measuring(measure: ComparisonMeasure, bound: float) -> Comparator:
    match measure:
        case "number":
            return _of_parts(lambda first, second: _within(first, second, bound))
        case "text":
            return _of_parts(lambda first, second: _similar(first, second, 100 * bound))
        case unknown:
            assert_never(unknown)


def is_too_deep(text: bytes) -> bool:
    """Tells if a JSON value is nested in more than `MAX_DEPTH` levels, without a recursion."""
    if text.count(b"[") + text.count(b"{") <= MAX_DEPTH:
        return False
    brackets = _STRING.sub(b"", text).translate(_SQUARE, _NO_BRACKETS)
    for _ in range(MAX_DEPTH):
        if not brackets:
            return False
        brackets = brackets.replace(b"[]", b"")  # the innermost level
    return bool(brackets)


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


def _of_parts(is_same: Comparator) -> Comparator:
    """Makes the comparison by which all parts of two values are the same by `is_same`."""
    return lambda first, second: all(is_same(one, other) for one, other in _parts(first, second))


def _parts(first: Any, second: Any) -> Iterator[tuple[Any, Any]]:
    """Yields what stands in the same place of two values: items and members, down to those that have none in common."""
    waiting = [(first, second)]
    while waiting:
        one, other = waiting.pop()
        if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
            waiting += [(value, other[key]) for key, value in one.items()]
        elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
            waiting += zip(one, other, strict=True)
        else:
            yield one, other


def _in_order(values: list[Any]) -> list[Any]:
    """Sorts values by their JSON. A sort of many at once would keep all other threads from running."""
    runs = [sorted(values[start : start + _SORTED_AT_ONCE], key=_canonical) for start in _starts(values)]
    return runs[0] if len(runs) == 1 else list(heapq.merge(*runs, key=_canonical))


def _starts(values: list[Any]) -> range:
    return range(0, max(len(values), 1), _SORTED_AT_ONCE)


def _within(first: Any, second: Any, tolerance: float) -> bool:
    """Tells if numbers differ by at most `tolerance`, and all else is the same."""
    if _is_number(first) and _is_number(second):
        return bool(abs(first - second) <= tolerance + _ROUNDING * max(abs(first), abs(second)))
    return same(first, second)


def _similar(first: Any, second: Any, percent: float) -> bool:
    """Tells if texts are similar by at least `percent`, and all else is the same."""
    if not (isinstance(first, str) and isinstance(second, str)):
        return same(first, second)
    if first == second:
        return True
    if first[MAX_TEXT_LENGTH:] != second[MAX_TEXT_LENGTH:]:
        return False
    return bool(fuzz.ratio(first[:MAX_TEXT_LENGTH], second[:MAX_TEXT_LENGTH], score_cutoff=percent) >= percent)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
