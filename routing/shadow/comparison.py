"""Compares the outcomes of one call's runs, field by field, and finds the odd one of three."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from analysis.odd_ones import Odd
from poolshift.worker.definitions import Signature
from routing.shadow.comparators import Comparator, comparator_of, is_too_deep

ERROR_FIELD: Final = "$error"
"""The name under which the codes of errors are compared; no output can have it as a Python name."""
MAX_OUTPUT_BYTES: Final = 1024 * 1024
"""Outputs that are larger are not compared field by field: one run of them counts as `TOO_LARGE`."""
TOO_LARGE: Final = "outputs_too_large"
"""Stands for an error's code if a run's outputs are over `MAX_OUTPUT_BYTES`."""

_decode: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_value: Final = msgspec.json.Decoder().decode
_encode: Final = msgspec.json.Encoder().encode

Same = dict[str, bool | None]
"""Tells for each field if two outcomes have the same value; None if the values are nested too deeply to be compared."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of one run: its outputs as JSON, or the code of its error."""

    outputs: bytes | None
    code: str | None = None
    ms: float = 0.0

    @classmethod
    def of_outputs(cls, outputs: bytes | memoryview | msgspec.Raw, ms: float) -> "Outcome":
        """Returns the outcome of a run that succeeded, without the outputs if they are too large to be compared."""
        view = memoryview(outputs)
        return cls(None, TOO_LARGE, ms) if view.nbytes > MAX_OUTPUT_BYTES else cls(bytes(view), None, ms)


class Comparison:
    """The comparison of one program's outputs: the fields that its signature does not ignore."""

    def __init__(self, signature: Signature) -> None:
        self._comparators: dict[str, Comparator] = {
            field.name: comparator for field in signature.outputs if (comparator := comparator_of(field)) is not None
        }
        self.secret = frozenset(field.name for field in (*signature.inputs, *signature.outputs) if field.secret)
        """Inputs and outputs that no report shows."""

    def __len__(self) -> int:
        """The number of fields that are compared, the error's code included."""
        return len(self._comparators) + 1

    def compare(self, first: Outcome, second: Outcome) -> Same:
        """Tells for each field if both outcomes have the same value; the fields count if both have outputs."""
        if first.outputs is None or second.outputs is None:
            return {ERROR_FIELD: first.code == second.code}
        same: Same = {ERROR_FIELD: True}
        try:
            one, other = _decode(first.outputs), _decode(second.outputs)
        except RecursionError:
            return same | dict.fromkeys(self._comparators, True if first.outputs == second.outputs else None)
        for name, comparator in self._comparators.items():
            same[name] = _is_same(one.get(name), other.get(name), comparator)
        return same

    def odd_ones(self, fields: Sequence[str], first: Outcome, second: Outcome, third: Outcome) -> dict[str, Odd]:
        """Finds the odd one of the first two in each of `fields`, by the third run, which was V1's again."""
        with_first, with_second = self.compare(first, third), self.compare(second, third)
        return {field: _odd(with_first.get(field, False), with_second.get(field, False)) for field in fields}


def differing(same: Same) -> list[str]:
    """Names the fields whose values differ."""
    return [name for name, is_same in same.items() if is_same is False]


def _odd(fits_first: bool | None, fits_second: bool | None) -> Odd:  # noqa: FBT001
    if bool(fits_first) == bool(fits_second):
        return "none"
    return "v2" if fits_first else "v1"


def _is_same(one: msgspec.Raw | None, other: msgspec.Raw | None, comparator: Comparator) -> bool | None:
    if one is None or other is None:
        return one is other
    if bytes(one) == bytes(other):
        return True
    too_deep = [is_too_deep(bytes(value)) for value in (one, other)]
    if any(too_deep):
        return None if all(too_deep) else False
    return comparator(_value(one), _value(other))


def values_of(outcome: Outcome) -> Mapping[str, msgspec.Raw]:
    """Returns an outcome's outputs, each as JSON; those of an error are its code.

    Raises:
        RecursionError: they are nested too deeply.
    """
    return {ERROR_FIELD: msgspec.Raw(_encode(outcome.code))} if outcome.outputs is None else _decode(outcome.outputs)
