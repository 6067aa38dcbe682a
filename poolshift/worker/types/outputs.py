"""Checks what a program returned against a signature, and writes it as JSON."""

import math
from collections.abc import Callable
from typing import Any

import msgspec

from poolshift.worker.definitions import Field, FieldType
from poolshift.worker.errors import InvalidOutputs
from poolshift.worker.types.annotated import PydanticType
from poolshift.worker.types.annotations import OutputType
from poolshift.worker.types.encoding import encode, misfit_of, plain
from poolshift.worker.types.fields import Fields, field_of
from poolshift.worker.types.misfit import Misfit, place

_UNTYPED = OutputType()
_PLAIN_TYPES: dict[FieldType, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
    "any": (str, int, bool, list, dict),
}


class OutputValidator(Fields):
    """The outputs of a signature."""

    def __init__(self, fields: tuple[Field, ...], kind: OutputType = _UNTYPED) -> None:
        """Raises SignatureError."""
        of_pydantic = isinstance(kind.type, PydanticType)
        is_single = len(fields) == 1 and not kind.is_record
        annotation = None if kind.type is None or of_pydantic else kind.type.annotation
        super().__init__(fields, {fields[0].name: annotation} if is_single and annotation is not None else {})
        self._is_single = is_single
        self._is_value = kind.is_value
        self._jsonable = kind.type.jsonable if isinstance(kind.type, PydanticType) else None
        self._record = None if annotation is None or is_single else msgspec.json.Decoder(annotation)
        self._is_typed = annotation is not None
        is_plain = kind.type is None and not self._checks
        self._plain_types = {field.name: _PLAIN_TYPES[field.type] for field in fields} if is_plain else {}
        """The types by which an output surely fits; with them the JSON need not be parsed again to check it."""

    def outputs(self, returned: Any) -> bytes:
        """The JSON of what a program returned: a mapping of its outputs or, of a single output, the bare value.

        A NaN or an infinity has no JSON: as an output it is refused, inside an array or an object it becomes null.

        Raises:
            InvalidOutputs: it does not fit; `field` names the first that does not.
        """
        returned = self._by_name(returned)
        encoded = _encoded(returned)
        if self._surely_fits(returned):
            return encoded
        try:
            values = self._decode(encoded)
        except msgspec.ValidationError as error:
            if self._is_typed and self._fits_without_nan(returned):
                return encoded
            raise InvalidOutputs(f"outputs: {_reason(error, returned)}", field=field_of(error)) from None
        except (ValueError, RecursionError, msgspec.MsgspecError) as error:
            raise InvalidOutputs(f"outputs: {error}") from None
        by_name = dict(zip(self._names, msgspec.structs.astuple(values), strict=True))
        _refuse_nan(returned, [name for name, value in by_name.items() if value is None])
        self._check(by_name)
        return encoded

    def _by_name(self, returned: Any) -> Any:
        """Returns the mapping that a bare value stands for; of pydantic's models what pydantic makes of them."""
        if self._is_single and (
            self._is_value or not (isinstance(returned, dict) and set(returned) == set(self._names))
        ):
            returned = {self._names[0]: returned}
        return returned if self._jsonable is None else self._checked_by_pydantic(returned, self._jsonable)

    def _surely_fits(self, returned: Any) -> bool:
        plain_types = self._plain_types
        if not plain_types or type(returned) is not dict or returned.keys() != plain_types.keys():
            return False
        for name, value in returned.items():
            kind = type(value)
            if kind not in plain_types[name] or (kind is float and not math.isfinite(value)):
                return False
        return True

    def _decode(self, encoded: bytes) -> Any:
        values = self._decoder.decode(encoded)
        if self._record is not None:
            self._record.decode(encoded)
        return values

    def _checked_by_pydantic(self, returned: Any, jsonable: Callable[[Any], Any]) -> Any:
        try:
            if not self._is_single:
                return jsonable(returned)
            return {name: jsonable(value) for name, value in returned.items()}
        except Misfit as misfit:
            raise _invalid(misfit.under(self._names[0]) if self._is_single else misfit) from None

    def _fits_without_nan(self, returned: Any) -> bool:
        """Says if nothing but a NaN or an infinity, which JSON has as null, keeps a typed value from fitting."""
        outputs = msgspec.to_builtins(returned, str_keys=True, enc_hook=plain)
        finite = {name: value if isinstance(value, float) else _finite(value) for name, value in outputs.items()}
        try:
            self._decode(encode(finite))
        except msgspec.MsgspecError:
            return False
        return True

    def _check(self, values: dict[str, Any]) -> None:
        for name, check in self._checks:
            if values[name] is not None or name not in self._optional:
                try:
                    check(values[name])
                except Misfit as misfit:
                    raise _invalid(misfit.under(name)) from None


def _encoded(returned: Any) -> bytes:
    try:
        return encode(returned)
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise _invalid(misfit_of(returned, str(error))) from None


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return 0.0 if isinstance(value, float) and not math.isfinite(value) else value


def _refuse_nan(returned: Any, names: list[str]) -> None:
    """Raises InvalidOutputs if one of the outputs of these names is null because it is a NaN or an infinity."""
    for name in names:
        number = _nan_of(returned, name)
        if number is not None:
            raise _invalid(Misfit(f"{number} has no JSON", (name,)))


def _nan_of(returned: Any, name: str | None) -> float | None:
    """The output of that name, if it is a NaN or an infinity, be it Python's or numpy's."""
    outputs = returned if isinstance(returned, dict) else msgspec.to_builtins(returned, str_keys=True, enc_hook=plain)
    value = msgspec.to_builtins(outputs.get(name), str_keys=True, enc_hook=plain) if isinstance(outputs, dict) else None
    return value if isinstance(value, float) and not math.isfinite(value) else None


def _invalid(misfit: Misfit) -> InvalidOutputs:
    """The error for a misfit whose path begins with the output's name."""
    if not misfit.path:
        return InvalidOutputs(f"outputs: {misfit.reason}")
    return InvalidOutputs(f"outputs: {misfit.told()}", field=str(misfit.path[0]))


def _reason(error: msgspec.ValidationError, returned: Any) -> str:
    name = field_of(error)
    number = _nan_of(returned, name)
    return str(error) if number is None else f"{number} has no JSON - at `{place([str(name)])}`"
