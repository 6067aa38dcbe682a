"""Checks inputs and outputs against a signature, in the worker, with a validator compiled once per program."""

import re
from typing import Any

import msgspec

from poolshift.worker.definitions import Field, FieldType
from poolshift.worker.errors import InvalidInputs, InvalidOutputs, MalformedInputs

_TYPES: dict[FieldType, Any] = {
    "string": str,
    "integer": int,
    "number": int | float,
    "boolean": bool,
    "array": list[Any],
    "object": dict[str, Any],
}
# msgspec names the place as `$.field…`, or as `field` if it is missing or unknown.
_PLACE = re.compile(r"`\$\.(?P<path>[^`\[.]+)|field `(?P<name>[^`]+)`")


def type_of(field_type: FieldType) -> Any:
    """The Python type that a field's type stands for."""
    return _TYPES[field_type]


class Validator:
    """The fields of one side of a signature. Unknown fields are refused; an optional one may be absent or null."""

    def __init__(self, fields: tuple[Field, ...]) -> None:
        self._names = [field.name for field in fields]
        self._defaults = {field.name: field.default for field in fields if not field.required}
        # The struct's own attribute names are positions, so that any string can be a field's name.
        attributes = [f"f{position}" for position in range(len(fields))]
        model = msgspec.defstruct(
            "Fields",
            [
                (attribute, _TYPES[field.type]) if field.required else (attribute, _TYPES[field.type] | None, None)
                for attribute, field in zip(attributes, fields, strict=True)
            ],
            rename=dict(zip(attributes, self._names, strict=True)),
            forbid_unknown_fields=True,
            kw_only=True,
        )
        self._decoder = msgspec.json.Decoder(model)

    def inputs(self, raw: bytes | msgspec.Raw) -> dict[str, Any]:
        """The keyword arguments that `raw`, a JSON object, stands for; an absent one without a default is left out.

        Raises:
            InvalidInputs: they do not fit; `field` names the first that does not.
            MalformedInputs: not JSON.
        """
        try:
            values = msgspec.structs.astuple(self._decoder.decode(raw))
        except msgspec.ValidationError as error:
            raise InvalidInputs(f"inputs: {error}", field=_field_of(error)) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise MalformedInputs(f"inputs: {error}", started=False) from None
        arguments = dict(zip(self._names, values, strict=True))
        for name, default in self._defaults.items():
            if arguments[name] is None:
                if default is None:
                    del arguments[name]
                else:
                    arguments[name] = default
        return arguments

    def outputs(self, returned: Any) -> bytes:
        """The JSON of what a program returned: a mapping of its outputs or, of a single output, the bare value.

        A NaN or an infinity has no JSON: as an output it is refused, inside an array or an object it becomes null.

        Raises:
            InvalidOutputs: it does not fit; `field` names the first that does not.
        """
        if len(self._names) == 1 and not (isinstance(returned, dict) and set(returned) == set(self._names)):
            returned = {self._names[0]: returned}
        try:
            encoded = msgspec.json.encode(returned)
            self._decoder.decode(encoded)
        except msgspec.ValidationError as error:
            raise InvalidOutputs(f"outputs: {error}", field=_field_of(error)) from None
        except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
            raise InvalidOutputs(f"outputs: {error}") from None
        return encoded


def _field_of(error: msgspec.ValidationError) -> str | None:
    found = _PLACE.search(str(error))
    return (found["path"] or found["name"]) if found else None
