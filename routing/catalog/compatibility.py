"""Compatibility of V2's own definition with V1's: V2 must take every call that V1 takes, and answer with what V1 does.

Inputs may become wider and outputs narrower, never the other way round. A JSON Schema counts as wider than another one
if the rules below prove it; if they cannot, the definition is refused.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import msgspec

from poolshift.worker.definitions import Field, Signature
from routing.catalog.definitions import schema_of
from routing.errors import IncompatibleDefinition

Schema = Mapping[str, Any] | bool

_SAYS_NOTHING: Final = frozenset(
    {"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$comment", "$schema"}
)
_LOWER_BOUNDS: Final = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_UPPER_BOUNDS: Final = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")


def check_compatible(v1: Signature, v2: Signature) -> None:
    """Tells if programs with the signature `v2` take each call of `v1`, and answer with each of its outputs.

    Raises:
        IncompatibleDefinition: they do not; it names the field.
    """
    old_inputs, new_inputs = _by_name(v1.inputs), _by_name(v2.inputs)
    for name, new in new_inputs.items():
        _check_input(name, old_inputs.get(name), new)
    for name in old_inputs:
        if name not in new_inputs:
            raise IncompatibleDefinition(name, f"the input {name!r} is gone, which V1's calls may have")
    new_outputs = _by_name(v2.outputs)
    for name, old in _by_name(v1.outputs).items():
        _check_output(name, old, new_outputs.get(name))


def _by_name(fields: Sequence[Field]) -> dict[str, Field]:
    return {field.name: field for field in fields}


def _check_input(name: str, old: Field | None, new: Field) -> None:
    if new.required and (old is None or not old.required):
        raise IncompatibleDefinition(name, f"the input {name!r} is required, which V1's calls may lack")
    if old is not None and not _takes(new, old):
        raise IncompatibleDefinition(name, f"the input {name!r} is narrower than V1's: {_told(new)}, not {_told(old)}")


def _check_output(name: str, old: Field, new: Field | None) -> None:
    if new is None:
        raise IncompatibleDefinition(name, f"the output {name!r} is gone, which V1's answers have")
    if old.required and not new.required:
        raise IncompatibleDefinition(name, f"the output {name!r} may be missing, which V1's answers always have")
    if not _takes(old, new):
        raise IncompatibleDefinition(name, f"the output {name!r} is another than V1's: {_told(new)}, not {_told(old)}")


def _told(field: Field) -> str:
    return field.type if schema_of(field) is None else f"{field.type} with a schema"


def _takes(wide: Field, narrow: Field) -> bool:
    """Tells if every value of `narrow` is one of `wide`."""
    is_wider = wide.type in ("any", narrow.type) or (wide.type, narrow.type) == ("number", "integer")
    schema = _schema(wide)
    return is_wider and (schema is None or takes_all(schema, _schema(narrow) or _schema_of_type(narrow)))


def _schema(field: Field) -> Schema | None:
    raw = schema_of(field)
    if raw is None:
        return None
    schema: Schema = msgspec.json.decode(raw)
    return schema


def _schema_of_type(field: Field) -> Schema:
    return {} if field.type == "any" else {"type": field.type}


def takes_all(wide: Schema, narrow: Schema) -> bool:
    """Tells if a value that fits `narrow` surely fits `wide`."""
    wide, narrow = _rules(wide), _rules(narrow)
    if wide == {} or narrow is False or _json(wide) == _json(narrow):
        return True
    if isinstance(wide, bool) or isinstance(narrow, bool) or "$ref" in wide or "$ref" in narrow:
        return False
    if "anyOf" in narrow and len(narrow) == 1:
        return all(takes_all(wide, one) for one in narrow["anyOf"])
    return all(_RULES.get(keyword, _is_same)(keyword, wide, narrow) for keyword in wide)


def _rules(schema: Schema) -> Schema:
    """The schema without what only explains it."""
    if isinstance(schema, bool):
        return {} if schema else False
    return {
        keyword: [_rules(one) for one in value] if keyword == "anyOf" else value
        for keyword, value in schema.items()
        if keyword not in _SAYS_NOTHING
    }


def _is_same(keyword: str, wide: Mapping[str, Any], narrow: Mapping[str, Any]) -> bool:
    return keyword in narrow and _json(wide[keyword]) == _json(narrow[keyword])


def _type(_: str, wide: Mapping[str, Any], narrow: Mapping[str, Any]) -> bool:
    allowed, given = _listed(wide["type"]), _listed(narrow.get("type", ()))
    return bool(given) and all(one in allowed or (one == "integer" and "number" in allowed) for one in given)


def _listed(value: Any) -> Sequence[Any]:
    return [value] if isinstance(value, str) else value


def _json(value: Any) -> bytes:
    """JSON to compare by: Python's `==` does not tell true from 1."""
    return msgspec.json.encode(value, order="deterministic")


def _values(schema: Mapping[str, Any]) -> Sequence[Any] | None:
    return [schema["const"]] if "const" in schema else schema.get("enum")


def _enum(_: str, wide: Mapping[str, Any], narrow: Mapping[str, Any]) -> bool:
    allowed, given = _values(wide), _values(narrow)
    same = {_json(one) for one in allowed or ()}
    return given is not None and all(_json(one) in same for one in given)


def _lower(keyword: str, wide: Mapping[str, Any], narrow: Mapping[str, Any]) -> bool:
    return keyword in narrow and bool(narrow[keyword] >= wide[keyword])


def _upper(keyword: str, wide: Mapping[str, Any], narrow: Mapping[str, Any]) -> bool:
    return keyword in narrow and bool(narrow[keyword] <= wide[keyword])


def _items(_: str, wide: Mapping[str, Any], narrow: Mapping[str, Any]) -> bool:
    return takes_all(wide["items"], narrow.get("items", True))


def _properties(_: str, wide: Mapping[str, Any], narrow: Mapping[str, Any]) -> bool:
    given = narrow.get("properties", {})
    others = narrow.get("additionalProperties", True)
    return all(takes_all(schema, given.get(name, others)) for name, schema in wide["properties"].items())


def _required(_: str, wide: Mapping[str, Any], narrow: Mapping[str, Any]) -> bool:
    return set(wide["required"]) <= set(narrow.get("required", ()))


def _additional(_: str, wide: Mapping[str, Any], narrow: Mapping[str, Any]) -> bool:
    known = wide.get("properties", {})
    extra = [schema for name, schema in narrow.get("properties", {}).items() if name not in known]
    others = narrow.get("additionalProperties", True)
    return all(takes_all(wide["additionalProperties"], schema) for schema in [*extra, others])


def _any_of(_: str, wide: Mapping[str, Any], narrow: Mapping[str, Any]) -> bool:
    return any(takes_all(one, narrow) for one in wide["anyOf"])


_Rule = Callable[[str, Mapping[str, Any], Mapping[str, Any]], bool]
_RULES: Final[Mapping[str, _Rule]] = MappingProxyType(
    {
        "type": _type,
        "enum": _enum,
        "const": _enum,
        "items": _items,
        "properties": _properties,
        "required": _required,
        "additionalProperties": _additional,
        "anyOf": _any_of,
        **dict.fromkeys(_LOWER_BOUNDS, _lower),
        **dict.fromkeys(_UPPER_BOUNDS, _upper),
    }
)
"""The rule by which a keyword of the wider schema follows from the narrower one; all others must be the same."""
