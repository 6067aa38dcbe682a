"""Compatibility of V2's own definition with V1's: V2 must take every call that V1 takes, and answer with what V1 does.

Inputs may become wider and outputs narrower, never the other way round. A JSON Schema counts as wider than another one
if the rules below prove it; if they cannot, or would take too long, the definition is refused. A client chooses both
schemas, so a check has a budget, and runs in a thread.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import msgspec

from common.threads import in_check_thread
from poolshift.worker.definitions import Field, Signature
from routing.catalog.definitions import schema_of
from routing.errors import IncompatibleDefinition

Schema = Mapping[str, Any] | bool

MAX_STEPS: Final = 100_000
"""The budget of a check: rules that are tried, values that are compared, and pieces of 64 bytes that are encoded."""
_SAYS_NOTHING: Final = frozenset(
    {"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$comment", "$schema"}
)
_LOWER_BOUNDS: Final = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_UPPER_BOUNDS: Final = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")


async def ensure_compatible(v1: Signature, v2: Signature) -> None:
    """Does as `check_compatible`, in a thread."""
    await in_check_thread(lambda: check_compatible(v1, v2))


def check_compatible(v1: Signature, v2: Signature) -> None:
    """Tells if programs with the signature `v2` take each call of `v1`, and answer with each of its outputs.

    Raises:
        IncompatibleDefinition: they do not, or that cannot be told within `MAX_STEPS`; it names the field.
    """
    comparison = _Comparison()
    old_inputs, new_inputs = _by_name(v1.inputs), _by_name(v2.inputs)
    for name, new in new_inputs.items():
        _check_input(name, old_inputs.get(name), new, comparison)
    for name in old_inputs:
        if name not in new_inputs:
            raise IncompatibleDefinition(name, f"the input {name!r} is gone, which V1's calls may have")
    new_outputs = _by_name(v2.outputs)
    for name, old in _by_name(v1.outputs).items():
        _check_output(name, old, new_outputs.get(name), comparison)


def _by_name(fields: Sequence[Field]) -> dict[str, Field]:
    return {field.name: field for field in fields}


def _check_input(name: str, old: Field | None, new: Field, comparison: "_Comparison") -> None:
    if new.required and (old is None or not old.required):
        raise IncompatibleDefinition(name, f"the input {name!r} is required, which V1's calls may lack")
    if old is not None and not _takes(name, new, old, comparison):
        raise IncompatibleDefinition(name, f"the input {name!r} is narrower than V1's: {_told(new)}, not {_told(old)}")


def _check_output(name: str, old: Field, new: Field | None, comparison: "_Comparison") -> None:
    if new is None:
        raise IncompatibleDefinition(name, f"the output {name!r} is gone, which V1's answers have")
    if old.required and not new.required:
        raise IncompatibleDefinition(name, f"the output {name!r} may be missing, which V1's answers always have")
    if not _takes(name, old, new, comparison):
        raise IncompatibleDefinition(name, f"the output {name!r} is another than V1's: {_told(new)}, not {_told(old)}")


def _told(field: Field) -> str:
    return field.type if schema_of(field) is None else f"{field.type} with a schema"


def _takes(name: str, wide: Field, narrow: Field, comparison: "_Comparison") -> bool:
    """Tells if every value of `narrow` is one of `wide`."""
    is_wider = wide.type in ("any", narrow.type) or (wide.type, narrow.type) == ("number", "integer")
    raw = schema_of(wide)
    if not is_wider or raw is None or raw == schema_of(narrow):
        return is_wider
    try:
        return comparison.takes_all(_decoded(raw), _schema(narrow) or _schema_of_type(narrow))
    except _TooLong:
        why = "is too large to compare: keep V1's there as it is, or make it smaller, with an `enum` for many constants"
        raise IncompatibleDefinition(name, f"the schema of {name!r} {why}") from None


def _schema(field: Field) -> Schema | None:
    raw = schema_of(field)
    return None if raw is None else _decoded(raw)


def _decoded(raw: msgspec.Raw) -> Schema:
    schema: Schema = msgspec.json.decode(raw)
    return schema


def _schema_of_type(field: Field) -> Schema:
    return {} if field.type == "any" else {"type": field.type}


def takes_all(wide: Schema, narrow: Schema) -> bool:
    """Tells if a value that fits `narrow` surely fits `wide`. Raises IncompatibleDefinition if that takes too long."""
    return _Comparison().takes_all(wide, narrow)


class _TooLong(Exception):
    """The budget of a check is used up."""


class _Part(NamedTuple):
    """A schema, its rules without what only explains it, and the JSON of these to compare by."""

    schema: Any
    rules: Any
    json: bytes


class _Comparison:
    """The comparison of schemas within one budget. Each part of a schema is encoded once."""

    def __init__(self) -> None:
        self._left = MAX_STEPS
        self._parts: dict[int, _Part] = {}
        """By the id of a schema or of its rules; an entry keeps both alive."""
        self._sets: dict[int, tuple[Sequence[Any], frozenset[bytes]]] = {}
        """The JSON of each item, by the id of a list, which the entry keeps alive."""

    def spend(self, steps: int) -> None:
        """Raises _TooLong if fewer than `steps` are left of the budget."""
        self._left -= steps
        if self._left < 0:
            raise _TooLong

    def takes_all(self, wide: Schema, narrow: Schema) -> bool:
        """Tells if a value that fits `narrow` surely fits `wide`. Raises _TooLong."""
        self.spend(1)
        of_wide, of_narrow = self._part(wide), self._part(narrow)
        wide, narrow = of_wide.rules, of_narrow.rules
        if wide == {} or narrow is False or of_wide.json == of_narrow.json:
            return True
        if isinstance(wide, bool) or isinstance(narrow, bool) or "$ref" in wide or "$ref" in narrow:
            return False
        if "anyOf" in narrow and len(narrow) == 1:
            return all(self.takes_all(wide, one) for one in narrow["anyOf"])
        return all(self._follows(keyword, wide, narrow) for keyword in wide)

    def json(self, value: Any) -> bytes:
        """JSON to compare by: Python's `==` does not tell true from 1."""
        encoded = msgspec.json.encode(value, order="deterministic")
        self.spend(1 + len(encoded) // 64)
        return encoded

    def set_of(self, values: Sequence[Any]) -> frozenset[bytes]:
        """The JSON of all values of a list."""
        known = self._sets.get(id(values))
        if known is None:
            known = self._sets[id(values)] = values, frozenset(map(self.json, values))
        return known[1]

    def has_equal(self, schemas: Sequence[Schema], one: Schema) -> bool:
        """Tells if one of the schemas has the same rules, by one look-up."""
        known = self._sets.get(id(schemas))
        if known is None:
            known = self._sets[id(schemas)] = schemas, frozenset(self._part(schema).json for schema in schemas)
        return self._part(one).json in known[1]

    def _follows(self, keyword: str, wide: Mapping[str, Any], narrow: Mapping[str, Any]) -> bool:
        self.spend(1)
        return _RULES.get(keyword, _is_same)(self, keyword, wide, narrow)

    def _part(self, schema: Schema) -> _Part:
        known = self._parts.get(id(schema))
        if known is None:
            rules = self._rules(schema)
            known = _Part(schema, rules, self.json(rules))
            self._parts[id(schema)] = self._parts[id(rules)] = known
        return known

    def _rules(self, schema: Schema) -> Schema:
        """The schema without what only explains it."""
        if isinstance(schema, bool):
            return {} if schema else False
        return {
            keyword: [self._part(one).rules for one in value] if keyword == "anyOf" else value
            for keyword, value in schema.items()
            if keyword not in _SAYS_NOTHING
        }


def _is_same(comparison: _Comparison, keyword: str, wide: Mapping[str, Any], narrow: Mapping[str, Any]) -> bool:
    return keyword in narrow and comparison.json(wide[keyword]) == comparison.json(narrow[keyword])


def _type(_: _Comparison, __: str, wide: Mapping[str, Any], narrow: Mapping[str, Any]) -> bool:
    allowed, given = _listed(wide["type"]), _listed(narrow.get("type", ()))
    return bool(given) and all(one in allowed or (one == "integer" and "number" in allowed) for one in given)


def _listed(value: Any) -> Sequence[Any]:
    return [value] if isinstance(value, str) else value


def _values(comparison: _Comparison, schema: Mapping[str, Any]) -> frozenset[bytes] | None:
    if "const" in schema:
        return frozenset((comparison.json(schema["const"]),))
    return comparison.set_of(schema["enum"]) if "enum" in schema else None


def _enum(comparison: _Comparison, _: str, wide: Mapping[str, Any], narrow: Mapping[str, Any]) -> bool:
    allowed, given = _values(comparison, wide), _values(comparison, narrow)
    if allowed is None or given is None:
        return False
    comparison.spend(len(given))
    return given <= allowed


def _lower(_: _Comparison, keyword: str, wide: Mapping[str, Any], narrow: Mapping[str, Any]) -> bool:
    return keyword in narrow and bool(narrow[keyword] >= wide[keyword])


def _upper(_: _Comparison, keyword: str, wide: Mapping[str, Any], narrow: Mapping[str, Any]) -> bool:
    return keyword in narrow and bool(narrow[keyword] <= wide[keyword])


def _items(comparison: _Comparison, _: str, wide: Mapping[str, Any], narrow: Mapping[str, Any]) -> bool:
    return comparison.takes_all(wide["items"], narrow.get("items", True))


def _properties(comparison: _Comparison, _: str, wide: Mapping[str, Any], narrow: Mapping[str, Any]) -> bool:
    given = narrow.get("properties", {})
    others = narrow.get("additionalProperties", True)
    return all(comparison.takes_all(schema, given.get(name, others)) for name, schema in wide["properties"].items())


def _required(comparison: _Comparison, _: str, wide: Mapping[str, Any], narrow: Mapping[str, Any]) -> bool:
    return comparison.set_of(wide["required"]) <= comparison.set_of(narrow.get("required", _NOTHING))


def _additional(comparison: _Comparison, _: str, wide: Mapping[str, Any], narrow: Mapping[str, Any]) -> bool:
    known, given = wide.get("properties", {}), narrow.get("properties", {})
    comparison.spend(len(given))
    extra = [schema for name, schema in given.items() if name not in known]
    others = narrow.get("additionalProperties", True)
    return all(comparison.takes_all(wide["additionalProperties"], schema) for schema in [*extra, others])


def _any_of(comparison: _Comparison, _: str, wide: Mapping[str, Any], narrow: Mapping[str, Any]) -> bool:
    schemas = wide["anyOf"]
    return comparison.has_equal(schemas, narrow) or any(comparison.takes_all(one, narrow) for one in schemas)


_NOTHING: Final[Sequence[Any]] = ()
_Rule = Callable[[_Comparison, str, Mapping[str, Any], Mapping[str, Any]], bool]
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
