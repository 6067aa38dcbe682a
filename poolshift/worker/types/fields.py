"""The fields of one side of a signature, as msgspec decodes and checks them in one pass."""

import re
from collections.abc import Mapping
from typing import Any, Optional

import msgspec

from poolshift.worker.definitions import Field, FieldType, Signature
from poolshift.worker.types.misfit import Misfit
from poolshift.worker.types.schemas import check_of

_TYPES: dict[FieldType, Any] = {
    "string": str,
    "integer": int,
    "number": int | float,
    "boolean": bool,
    "array": list[Any],
    "object": dict[str, Any],
    "any": Any,
}
# msgspec ends with the place, as `$.field…`, unless a field itself is missing or unknown, which it names.
_PLACE = re.compile(r"`\$\.([^`\[.]+)")
_NAME = re.compile(r"field `([^`]+)`")


def checked_by_schemas(signature: Signature) -> Signature:
    """Returns a signature with the schemas by which values are checked.

    Annotations tell the schemas of a derived signature and of DSPy's string form, and values are checked by these.
    """
    if not signature.derived and signature.text is None:
        return signature
    inputs, outputs = (
        tuple(msgspec.structs.replace(one, schema=None) for one in side)
        for side in (signature.inputs, signature.outputs)
    )
    return msgspec.structs.replace(signature, inputs=inputs, outputs=outputs)


def type_of(field_type: FieldType) -> Any:
    """The Python type that a field's type stands for."""
    return _TYPES[field_type]


class Fields:
    """The fields of one side of a signature. Unknown fields are refused; an optional one may be absent or null."""

    def __init__(self, fields: tuple[Field, ...], types: Mapping[str, Any]) -> None:
        """`types` has the Python types of the fields for which the signature's type is not enough.

        Raises:
            SignatureError: a field's schema cannot be checked.
        """
        self._names = [field.name for field in fields]
        self._optional = {field.name for field in fields if not field.required}
        self._checks = [(field.name, check_of(field)) for field in fields if field.schema is not None]
        self._decoder = msgspec.json.Decoder(_struct(fields, types))


def _struct(fields: tuple[Field, ...], types: Mapping[str, Any]) -> Any:
    # The struct's own attribute names are positions, so that any string can be a field's name.
    attributes = [f"f{position}" for position in range(len(fields))]
    kinds = [_kind(field, types) for field in fields]
    return msgspec.defstruct(
        "Fields",
        [
            (attribute, kind) if field.required else (attribute, kind, None)
            for attribute, kind, field in zip(attributes, kinds, fields, strict=True)
        ],
        rename={attribute: field.name for attribute, field in zip(attributes, fields, strict=True)},
        forbid_unknown_fields=True,
        kw_only=True,
    )


def _kind(field: Field, types: Mapping[str, Any]) -> Any:
    kind = types.get(field.name, _TYPES[field.type])
    return kind if field.required or kind is msgspec.Raw else Optional[kind]  # noqa: UP045  # some have no `|`


def field_of(error: msgspec.ValidationError) -> str | None:
    """The field that an error names."""
    text = str(error)
    found = _PLACE.findall(text) or _NAME.findall(text)
    return found[-1] if found else None


def text_of(side: str, name: str, misfit: Misfit) -> str:
    """Says a misfit and its place, as msgspec does."""
    return f"{side}: {misfit.under(name).told()}"
