"""Examples of calls whose outputs differ: bounded, with secret fields masked, and with a structured difference."""

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from analysis.odd_ones import Odd
from routing.shadow.comparison import ERROR_FIELD, Outcome, values_of

MAX_EXAMPLES: Final = 10
"""Examples kept for each program: those with the most differing fields, the newest first."""
MAX_VALUE_LENGTH: Final = 1000
"""Characters of a value's JSON that an example keeps."""
MAX_DIFF_BYTES: Final = 64 * 1024
"""Outputs that are larger get no structured difference."""
MAX_DIFF_LINES: Final = 20
MASK: Final = "(secret)"
_encode: Final = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Example:
    """A call whose outputs differ between the versions; values are JSON, cut at `MAX_VALUE_LENGTH`."""

    execution_id: str
    trace_id: str | None
    odd: Mapping[str, Odd]
    """By differing field: the odd one of the three runs."""
    inputs: str
    v1: Mapping[str, str]
    v2: Mapping[str, str]
    diff: tuple[str, ...]

    @property
    def weight(self) -> int:
        """The number of fields in which V2 is the odd one, before those in which nobody is."""
        return sum({"v2": 100, "none": 1}.get(odd, 0) for odd in self.odd.values())


def gravest_first(examples: Iterable[Example]) -> list[Example]:
    """Orders examples by their weight, those of the same weight as they come."""
    return sorted(examples, key=lambda one: -one.weight)


class Examples:
    """The examples of one program."""

    def __init__(self) -> None:
        self._kept: deque[Example] = deque()

    def __iter__(self) -> Iterator[Example]:
        return iter(gravest_first(reversed(self._kept)))

    def wants(self, odd: Mapping[str, Odd]) -> bool:
        """Tells if an example with these fields would be kept: making one costs up to some 10 ms."""
        if "v2" in odd.values() or "none" in odd.values():
            return True
        return len(self._kept) < MAX_EXAMPLES

    def add(self, example: Example) -> None:
        """Keeps an example, in the place of the oldest of the lightest ones."""
        if len(self._kept) >= MAX_EXAMPLES:
            lightest = min(self._kept, key=lambda one: one.weight)
            if lightest.weight > example.weight:
                return
            self._kept.remove(lightest)
        self._kept.append(example)


def make_example(
    execution_id: str,
    trace_id: str | None,
    odd: Mapping[str, Odd],
    inputs: bytes,
    first: Outcome,
    second: Outcome,
    secret: Collection[str],
) -> Example:
    """Makes an example of a call. This takes up to some 10 ms: for a thread."""
    v1, v2 = _shown(first, odd, secret), _shown(second, odd, secret)
    return Example(
        execution_id, trace_id, dict(odd), _inputs(inputs, secret), v1, v2, _diff(first, second, odd, secret)
    )


def _shown(outcome: Outcome, odd: Mapping[str, Odd], secret: Collection[str]) -> dict[str, str]:
    values = values_of(outcome)
    names = [name for name in (values if ERROR_FIELD in odd else odd) if name in values]
    return {name: MASK if name in secret else cut(bytes(values[name]).decode()) for name in names}


def _inputs(inputs: bytes, secret: Collection[str]) -> str:
    if not secret:
        return cut(inputs[: 4 * MAX_VALUE_LENGTH].decode(errors="replace"))
    try:
        values = msgspec.json.decode(inputs, type=dict[str, msgspec.Raw])
    except msgspec.MsgspecError:
        return MASK
    masked = {name: MASK if name in secret else value for name, value in values.items()}
    return cut(_encode(masked).decode(errors="replace"))


def _diff(first: Outcome, second: Outcome, odd: Mapping[str, Odd], secret: Collection[str]) -> tuple[str, ...]:
    """The structured difference of the differing fields that are not secret."""
    if first.outputs is None or second.outputs is None:
        return (f"{ERROR_FIELD}: {first.code or 'ok'} -> {second.code or 'ok'}",)
    if len(first.outputs) + len(second.outputs) > MAX_DIFF_BYTES:
        return ("the outputs are too large for a structured difference",)
    names = [name for name in odd if name not in secret]
    if not names:
        return ("only secret fields differ",)
    try:
        return _difference(names, values_of(first), values_of(second))
    except RecursionError:
        return ("the outputs are nested too deeply for a structured difference",)


def _difference(
    names: list[str], first: Mapping[str, msgspec.Raw], second: Mapping[str, msgspec.Raw]
) -> tuple[str, ...]:
    # Imported here: a service whose versions do not differ does without the library.
    from deepdiff import DeepDiff  # noqa: PLC0415

    one, other = ({name: _value(values, name) for name in names} for values in (first, second))
    found: Any = DeepDiff(one, other, max_passes=1000, max_diffs=10_000, cache_size=0)
    return _first_lines([cut(line, 200) for line in found.pretty().splitlines()])


def _value(values: Mapping[str, msgspec.Raw], name: str) -> Any:
    return msgspec.json.decode(values[name]) if name in values else None


def _first_lines(lines: list[str]) -> tuple[str, ...]:
    left = len(lines) - MAX_DIFF_LINES
    return tuple(lines) if left <= 0 else (*lines[:MAX_DIFF_LINES], f"… and {left} more")


def cut(text: str, length: int = MAX_VALUE_LENGTH) -> str:
    """Cuts a text at `length` characters, and says how many are left out."""
    return text if len(text) <= length else f"{text[:length]}… ({len(text) - length} more)"
