"""The definitions of V2's own that take every call of V1's, and those that do not."""

import asyncio
import time
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poolshift.worker.definitions import Field, Signature
from routing.catalog.compatibility import Schema, check_compatible, ensure_compatible, takes_all
from routing.errors import IncompatibleDefinition

A_STRING = Field("a", "string")
RESULT = Field("result", "string")


def signature(*inputs: Field, outputs: tuple[Field, ...] = (RESULT,)) -> Signature:
    return Signature(inputs, outputs)


V1 = signature(A_STRING, Field("n", "integer", required=False))


@pytest.mark.parametrize(
    ("v2", "field"),
    [
        (V1, None),
        (signature(A_STRING, Field("n", "integer", required=False, default=3)), None),
        (signature(A_STRING, Field("n", "number", required=False)), None),
        (signature(Field("a", "any"), Field("n", "any", required=False)), None),
        (signature(Field("a", "string", required=False), Field("n", "integer", required=False)), None),
        (signature(*V1.inputs, Field("new", "object", required=False)), None),
        (signature(*V1.inputs, outputs=(RESULT, Field("more", "any"))), None),
        (signature(A_STRING, Field("n", "integer")), "n"),
        (signature(*V1.inputs, Field("new", "string")), "new"),
        (signature(Field("n", "integer", required=False)), "a"),
        (signature(Field("a", "integer"), V1.inputs[1]), "a"),
        (signature(Field("a", "string", schema={"maxLength": 3}), V1.inputs[1]), "a"),
        (signature(*V1.inputs, outputs=(Field("other", "string"),)), "result"),
        (signature(*V1.inputs, outputs=(Field("result", "any"),)), "result"),
        (signature(*V1.inputs, outputs=(Field("result", "string", required=False),)), "result"),
    ],
)
def test_signatures(v2: Signature, field: str | None) -> None:
    """Inputs may become wider, optional and more; outputs narrower and more. The first field in the way is named."""
    if field is None:
        check_compatible(V1, v2)
        return
    with pytest.raises(IncompatibleDefinition) as refused:
        check_compatible(V1, v2)
    assert refused.value.field == field
    assert repr(field) in str(refused.value)


def test_outputs_vary_the_other_way_round() -> None:
    """An output that was a number may be an integer, not the reverse; with schemas alike."""
    number, integer = Field("x", "number"), Field("x", "integer")
    low, high = Field("x", "integer", schema={"minimum": 0}), Field("x", "integer", schema={"minimum": 5})
    for narrow, wide in ((integer, number), (high, low), (low, integer)):
        check_compatible(signature(outputs=(wide,)), signature(outputs=(narrow,)))
        check_compatible(signature(narrow), signature(wide))
        with pytest.raises(IncompatibleDefinition):
            check_compatible(signature(outputs=(narrow,)), signature(outputs=(wide,)))
        with pytest.raises(IncompatibleDefinition):
            check_compatible(signature(wide), signature(narrow))


OBJECT = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


@pytest.mark.parametrize(
    ("wide", "narrow", "expected"),
    [
        ({"title": "X", "type": "string"}, {"type": "string", "description": "y"}, True),
        ({"enum": ["a", "b", "c"]}, {"enum": ["a", "b"]}, True),
        ({"enum": [1]}, {"enum": [True]}, False),
        ({"enum": ["a"]}, {"const": "a"}, True),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, {"type": "string"}, True),
        ({"type": "string"}, {"anyOf": [{"type": "string"}, {"type": "null"}]}, False),
        ({"type": "array", "items": {"type": "number"}}, {"type": "array", "items": {"type": "integer"}}, True),
        ({"type": "array", "items": {"type": "integer"}}, {"type": "array"}, False),
        ({**OBJECT, "required": []}, OBJECT, True),
        (OBJECT, {**OBJECT, "required": []}, False),
        ({**OBJECT, "additionalProperties": False}, OBJECT, False),
        (OBJECT, {**OBJECT, "additionalProperties": False}, True),
        ({"type": "string", "pattern": "^a"}, {"type": "string", "pattern": "^a"}, True),
        ({"type": "string", "pattern": "^a"}, {"type": "string"}, False),
        ({"$ref": "#/$defs/A", "$defs": {"A": OBJECT}}, {"$ref": "#/$defs/A", "$defs": {"A": OBJECT}}, True),
        ({"$ref": "#/$defs/A", "$defs": {"A": OBJECT}}, OBJECT, False),
    ],
)
def test_schemas(wide: Schema, narrow: Schema, *, expected: bool) -> None:
    """Provable relations hold, and what the rules cannot prove does not."""
    assert takes_all(wide, narrow) is expected


values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["", "a", "ab", "abc"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=4,
)
bounds = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["string", "integer", "number", "array", "object", ["string", "null"]]),
        "minimum": st.integers(-2, 2),
        "maximum": st.integers(-2, 2),
        "minLength": st.integers(0, 2),
        "maxItems": st.integers(0, 2),
        "enum": st.lists(values, min_size=1, max_size=3),
        "const": values,
        "required": st.lists(st.sampled_from("abc"), unique=True),
    },
)
schemas = st.recursive(
    st.booleans() | bounds,
    lambda inner: (
        st.fixed_dictionaries(
            {"type": st.just("object"), "properties": st.dictionaries(st.sampled_from("abc"), inner, max_size=2)},
            optional={"additionalProperties": inner},
        )
        | st.fixed_dictionaries({"type": st.just("array"), "items": inner})
        | st.fixed_dictionaries(
            {"anyOf": st.lists(inner, min_size=1, max_size=2)}, optional={"type": st.just("string")}
        )
    ),
    max_leaves=4,
)


@settings(max_examples=400, deadline=None)
@given(wide=schemas, narrow=schemas, candidates=st.lists(values, min_size=3, max_size=8))
def test_a_schema_that_takes_all_takes_every_value(wide: Any, narrow: Any, candidates: list[Any]) -> None:
    """A real validator finds no value that fits the narrower schema and not the wider one."""
    for other in (narrow, wide):
        if takes_all(wide, other):
            for value in candidates:
                if jsonschema_rs.is_valid(other, value):
                    assert jsonschema_rs.is_valid(wide, value), (wide, other, value)


CONSTANTS: dict[str, Any] = {"anyOf": [{"const": number} for number in range(2000)]}
_AS_ENUMS = {"anyOf": [{"enum": [number]} for number in reversed(range(2000))]}


@pytest.mark.parametrize(
    ("v2", "fits"),
    [
        ({"anyOf": list(reversed(CONSTANTS["anyOf"]))}, True),
        ({"anyOf": [*reversed(CONSTANTS["anyOf"]), {"const": "another"}]}, True),
        ({"enum": list(range(3000))}, True),
        (_AS_ENUMS, False),
        ({"anyOf": [{"enum": list(range(10 * one, 10 * one + 11))} for one in reversed(range(200))]}, False),
    ],
    ids=["another order", "one more", "an enum", "as enums", "wider enums"],
)
def test_large_schemas_are_compared_within_a_budget(v2: dict[str, Any], *, fits: bool) -> None:
    """A comparison that takes longer is refused, with what to do."""
    old, new = (signature(Field("choice", "any", schema=schema)) for schema in (CONSTANTS, v2))
    began = time.process_time()
    if fits:
        check_compatible(old, new)
    else:
        with pytest.raises(IncompatibleDefinition, match=r"'choice' is too large to compare.*`enum`") as refused:
            check_compatible(old, new)
        assert refused.value.field == "choice"
    assert time.process_time() - began < 2


@pytest.mark.anyio
async def test_the_comparison_leaves_the_event_loop() -> None:
    """A timer comes while a thread compares."""
    old, new = (signature(Field("choice", "any", schema=constants)) for constants in (CONSTANTS, _AS_ENUMS))
    comparison = asyncio.ensure_future(ensure_compatible(old, new))
    await asyncio.sleep(0.001)
    assert not comparison.done()
    with pytest.raises(IncompatibleDefinition):
        await comparison
