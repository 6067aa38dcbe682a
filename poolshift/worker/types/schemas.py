"""JSON Schemas of fields: the type that a schema stands for, and checks by jsonschema-rs.

jsonschema-rs is optional. It fetches nothing, and its regular expressions have a limit for backtracking.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import reduce
from typing import Any

from poolshift.worker.definitions import Field, FieldType
from poolshift.worker.errors import SignatureError
from poolshift.worker.types.misfit import Misfit

INSTALL = "python -m pip install 'jsonschema-rs>=0.60'"
DIALECT = "https://json-schema.org/draft/2020-12/schema"

_TYPES: dict[str, FieldType] = {
    "string": "string",
    "integer": "integer",
    "number": "number",
    "boolean": "boolean",
    "array": "array",
    "object": "object",
}
# Python's own types of JSON values; `bool` comes before `int`, which it is a kind of.
_TYPES_OF_VALUES: tuple[tuple[type, FieldType], ...] = (
    (bool, "boolean"),
    (int, "integer"),
    (float, "number"),
    (str, "string"),
    (list, "array"),
    (dict, "object"),
)
_NUMBERS = {"integer", "number"}
_MAX_DEPTH = 64
"""Levels of `anyOf`, `oneOf`, `allOf` and `$ref` that are followed; deeper than that, a schema allows any type."""
Check = Callable[[Any], None]


def check_of(field: Field) -> Check:
    """Compiles a field's JSON Schema; the check raises Misfit.

    Raises:
        SignatureError: the schema is not valid, its own default does not fit it, or jsonschema-rs is not installed.
    """
    try:
        import jsonschema_rs  # noqa: PLC0415  # optional, and most programs have no schema
    except ModuleNotFoundError:
        raise SignatureError(
            f"field {field.name!r} has a schema, and the worker's Python has no jsonschema-rs: {INSTALL}"
        ) from None
    assert field.schema is not None
    try:
        validator = jsonschema_rs.Draft202012Validator(
            field.schema, offline=True, validate_formats=True, mask="the value"
        )
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
        reason = getattr(error, "message", None) or str(error)
        at = "".join(f"/{step}" for step in getattr(error, "instance_path", ()))
        where = f" at {at}" if at else ""
        raise SignatureError(f"the schema of field {field.name!r} is not valid{where}: {reason}") from None

    def check(value: Any) -> None:
        try:
            validator.validate(value)
        except jsonschema_rs.ValidationError as error:
            raise Misfit(error.message, error.instance_path) from None
        except ValueError as error:  # nested too deeply
            raise Misfit(str(error)) from None

    if field.default is not None:
        try:
            check(field.default)
        except Misfit as misfit:
            reason = f"the default of field {field.name!r} does not fit its schema: {misfit.reason}"
            raise SignatureError(reason) from None
    return check


def type_of_schema(schema: Mapping[str, Any]) -> FieldType:
    """The type of a signature that a JSON Schema allows, null aside; `any` if the schema allows several."""
    types = types_of_schema(schema) - {"null"}
    if types == _NUMBERS:
        return "number"
    return _TYPES.get(next(iter(types)), "any") if len(types) == 1 else "any"


def types_of_schema(schema: Mapping[str, Any]) -> set[str]:
    """The names of the types that a JSON Schema allows: `any` if that cannot be told, none if no value fits."""
    return _types(schema, schema, {}, 0)


def allows_type(schema: Mapping[str, Any], field_type: FieldType) -> bool:
    """Says if a value of a signature's type may fit a JSON Schema."""
    allowed = types_of_schema(schema)
    fits = _NUMBERS if field_type in _NUMBERS else {field_type}
    return field_type == "any" or not allowed.isdisjoint({"any", *fits})


def allows_null(schema: Mapping[str, Any]) -> bool:
    """Says if a JSON Schema names null among its types, as an optional annotation has it."""
    return "null" in types_of_schema(schema)


def _types(schema: Any, whole: Mapping[str, Any], resolved: dict[str, set[str]], depth: int) -> set[str]:
    """The names of the types that a schema allows; `any` stands for all. Each definition is looked at once."""
    if not isinstance(schema, Mapping) or depth > _MAX_DEPTH:
        return {"any"}
    allowed = [*_named_types(schema)]
    if isinstance(reference := schema.get("$ref"), str):
        if reference not in resolved:
            resolved[reference] = set()  # a definition that refers to itself adds nothing
            resolved[reference] = _types(_definition(reference, whole), whole, resolved, depth + 1) or {"any"}
        allowed.append(resolved[reference])
    allowed += (
        set().union(*(_types(part, whole, resolved, depth + 1) for part in parts))
        for keyword in ("anyOf", "oneOf")
        if (parts := _parts(schema, keyword))
    )
    allowed += (_types(part, whole, resolved, depth + 1) for part in _parts(schema, "allOf"))
    return reduce(_in_both, allowed, {"any"})


def _in_both(one: set[str], other: set[str]) -> set[str]:
    """The types that both allow. Every integer is a number."""
    if "any" in one or "any" in other:
        return other if "any" in one else one
    both = one & other
    return both | {"integer"} if "number" not in both and one & _NUMBERS and other & _NUMBERS else both


def _named_types(schema: Mapping[str, Any]) -> Iterator[set[str]]:
    named, values = schema.get("type"), schema.get("enum")
    if isinstance(named, str | list):
        yield {named} if isinstance(named, str) else set(map(str, named))
    if "const" in schema:
        yield {_type_of_value(schema["const"])}
    if isinstance(values, list):
        yield {_type_of_value(value) for value in values}


def _definition(reference: str, whole: Mapping[str, Any]) -> Any:
    definitions = whole.get("$defs")
    return definitions.get(reference.removeprefix("#/$defs/")) if isinstance(definitions, Mapping) else None


def _parts(schema: Mapping[str, Any], keyword: str) -> list[Any]:
    parts = schema.get(keyword)
    return parts if isinstance(parts, list) else []


def _type_of_value(value: Any) -> str:
    if value is None:
        return "null"
    return next((name for kind, name in _TYPES_OF_VALUES if isinstance(value, kind)), "any")
