"""Types beyond the six: JSON Schemas, annotations, and objects of libraries, without a process."""

import dataclasses
import datetime
import enum
import typing
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, NamedTuple, TypedDict

import msgspec
import numpy as np
import pandas as pd
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolshift.worker.definitions import Field, FieldType, Signature
from poolshift.worker.errors import InvalidInputs, InvalidOutputs, SignatureError
from poolshift.worker.types.annotations import derive
from poolshift.worker.types.encoding import encode
from poolshift.worker.types.inputs import InputValidator
from poolshift.worker.types.outputs import OutputValidator
from poolshift.worker.types.schemas import allows_type, type_of_schema
from poolshift.worker.types.validators import validators_of
from tests.support import typed_programs as programs

json = msgspec.json.decode


def function(annotation: Any, returned: Any = Any) -> Callable[..., Any]:
    """A function with one argument `x` of a type; it returns its argument."""

    def echo(x: Any) -> Any:
        return x

    echo.__annotations__ = {"x": annotation, "return": returned}
    return echo


def given_signature(kind: FieldType, returned: FieldType = "any", **more: Any) -> Signature:
    return Signature((Field("x", kind, **more),), (Field("result", returned),))


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclasses.dataclass
class Point:
    x: int
    color: Color = Color.RED


class Named(NamedTuple):
    a: int


class Typed(TypedDict):
    points: list[Point]


class Struct(msgspec.Struct):
    a: int


class Model(pydantic.BaseModel):
    a: int = pydantic.Field(ge=0)


Limited = Annotated[int, pydantic.Field(le=3)]

# An annotation, the type it is derived as, JSON that fits with the object it becomes, and JSON that does not fit.
ANNOTATIONS: list[tuple[Any, FieldType, Any, Any, Any]] = [
    (int, "integer", 1, 1, "1"),
    (float, "number", 1, 1.0, "1"),
    (str, "string", "a", "a", 1),
    (bool, "boolean", True, True, 1),
    (list, "array", [1, "a"], [1, "a"], {}),
    (list[int], "array", [1], [1], ["a"]),
    (typing.List[int], "array", [1], [1], ["a"]),  # noqa: UP006  # as older code has it
    (Sequence[int], "array", [1], [1], ["a"]),
    (tuple[int, str], "array", [1, "a"], (1, "a"), [1]),
    (set[int], "array", [1], {1}, ["a"]),
    (dict[str, int], "object", {"a": 1}, {"a": 1}, {"a": "b"}),
    (dict[int, str], "object", {"1": "a"}, {1: "a"}, {"a": "a"}),
    (int | str, "any", "a", "a", 1.5),
    (Color, "string", "blue", Color.BLUE, "green"),
    (Literal["a", "b"], "string", "a", "a", "c"),
    (datetime.date, "string", "2026-01-02", datetime.date(2026, 1, 2), "yesterday"),
    (bytes, "string", "AP8=", b"\x00\xff", "!"),
    (Point, "object", {"x": 1, "color": "blue"}, Point(1, Color.BLUE), {"x": 1, "color": "green"}),
    (list[Point | None], "array", [{"x": 1, "color": "red"}, None], [Point(1), None], [{"x": "1"}]),
    (Typed, "object", {"points": [{"x": 1, "color": "red"}]}, {"points": [Point(1)]}, {"points": [{}]}),
    (Named, "array", [1], Named(1), ["a"]),
    (Struct, "object", {"a": 1}, Struct(1), {"a": "1"}),
    (Model, "object", {"a": 1}, Model(a=1), {"a": -1}),
    (list[Model], "array", [{"a": 1}], [Model(a=1)], [{}]),
    (pydantic.RootModel[list[int]], "array", [1], pydantic.RootModel[list[int]]([1]), ["a"]),
    (Limited, "integer", 3, 3, 4),
]


@pytest.mark.parametrize(
    ("annotation", "kind", "fits", "made", "misfit"), ANNOTATIONS, ids=lambda value: str(value)[:40]
)
def test_a_derived_input_is_an_object_of_its_annotation(
    annotation: Any, kind: FieldType, fits: Any, made: Any, misfit: Any
) -> None:
    """A value that fits becomes that object; another is refused, and the field named."""
    echo = function(annotation)
    signature = derive(echo, "shop:echo")
    assert [(one.name, one.type, one.required) for one in signature.inputs] == [("x", kind, True)]
    inputs, _ = validators_of(signature, echo)
    (found,) = inputs.inputs(encode({"x": fits})).values()
    assert found == made
    assert type(found) is type(made)
    with pytest.raises(InvalidInputs) as refused:
        inputs.inputs(encode({"x": misfit}))
    assert refused.value.field == "x"


@pytest.mark.parametrize(
    ("annotation", "kind", "fits", "made", "misfit"), ANNOTATIONS, ids=lambda value: str(value)[:40]
)
def test_a_derived_output_is_checked(annotation: Any, kind: FieldType, fits: Any, made: Any, misfit: Any) -> None:
    """An object of the annotation goes out as the JSON that it came from; another is refused, and the field named."""
    echo = function(Any, annotation)
    signature = derive(echo, "shop:echo")
    _, outputs = validators_of(signature, echo)
    sent = json(outputs.outputs(made))
    if [one.name for one in signature.outputs] == ["result"]:
        sent = sent["result"]
    assert sent == fits
    with pytest.raises(InvalidOutputs) as refused:
        outputs.outputs(misfit)
    assert refused.value.field or misfit in ({}, "1")


@pytest.mark.parametrize(
    ("annotation", "kind", "fits", "made", "misfit"), ANNOTATIONS, ids=lambda value: str(value)[:40]
)
def test_a_given_signature_is_refined(annotation: Any, kind: FieldType, fits: Any, made: Any, misfit: Any) -> None:
    """Arrays, objects, and values that JSON has as text become objects; a plain type stays as the signature has it."""
    inputs, _ = validators_of(given_signature(kind), function(annotation))
    (found,) = inputs.inputs(encode({"x": fits})).values()
    assert found == (fits if annotation is Limited else made)


@pytest.mark.parametrize(
    ("kind", "annotation", "value"),
    [
        ("array", list, [1, "a"]),
        ("array", list[Any], [1, "a"]),
        ("object", dict, {"a": [1]}),
        ("object", dict[str, Any], {"a": [1]}),
        ("array", np.ndarray, [1, "a"]),
        ("array", "Missing", [1]),
        ("object", list[int], {"a": 1}),
        ("string", int, "a"),
        ("number", float, 1),
        ("number", Color, 1.5),
    ],
)
def test_an_annotation_that_says_no_more_changes_nothing(kind: FieldType, annotation: Any, value: Any) -> None:
    """Plain types, types of no library, and annotations that contradict the signature, which is what counts."""
    inputs, _ = validators_of(given_signature(kind), function(annotation))
    (found,) = inputs.inputs(encode({"x": value})).values()
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("inputs", "field"),
    [
        ({"point": {}, "color": "red"}, "point"),
        ({"point": {"x": 1}}, "color"),
        ({"point": {"x": 1}, "color": "red", "more": 1}, "more"),
        ({"point": {"x": 1}, "color": "a - at `$.point`"}, "color"),
    ],
)
def test_the_field_that_is_named_is_one_of_the_signature(inputs: dict[str, Any], field: str) -> None:
    """Not the member of an object that is missing in it, and not what a value says."""

    def paint(point: Point, color: Color) -> None: ...

    checks, _ = validators_of(derive(paint, "shop:paint"), paint)
    with pytest.raises(InvalidInputs) as refused:
        checks.inputs(encode(inputs))
    assert refused.value.field == field


@given(value=st.recursive(st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(), st.lists))
def test_any_json_goes_through_unchanged(value: Any) -> None:
    """An input of the type `any`, null too."""
    inputs = InputValidator((Field("x", "any"),))
    assert inputs.inputs(encode({"x": value})) == {"x": value}


def test_what_is_optional() -> None:
    """An absent input is None if the annotation takes that and there is no default, and left to the default if so."""

    def optional(a: int | None, b: Model | None, c: Model | None = None, d: int = 5) -> dict[str, Any]:
        raise AssertionError

    signature = derive(optional, "shop:optional")
    assert not any(one.required for one in signature.inputs)
    inputs, _ = validators_of(signature, optional)
    assert inputs.inputs(b"{}") == {"a": None, "b": None}
    assert inputs.inputs(b'{"a": null, "b": null, "c": null, "d": null}') == {"a": None, "b": None}
    assert inputs.inputs(b'{"c": {"a": 1}}') == {"a": None, "b": None, "c": Model(a=1)}


@pytest.mark.parametrize("annotation", [list[Point], list[Model]])
def test_a_default_becomes_new_objects(annotation: Any) -> None:
    """Each call gets its own; a default that does not fit is refused when the checks are built."""
    default = [{"x": 1}] if annotation == list[Point] else [{"a": 1}]
    signature = given_signature("array", required=False, default=default)
    inputs, _ = validators_of(signature, function(annotation))
    first, second = inputs.inputs(b"{}")["x"], inputs.inputs(b'{"x": null}')["x"]
    assert first == second
    assert first[0] is not second[0]
    assert isinstance(first[0], Point | Model)
    wrong = given_signature("array", required=False, default=[{"x": "1", "a": -1}])
    with pytest.raises(SignatureError, match="the default of field 'x' does not fit"):
        validators_of(wrong, function(annotation))


@pytest.mark.parametrize(
    ("of", "reason"),
    [
        (programs.anything, "parameter `inputs` takes any keyword arguments"),
        (programs.unreadable, "parameter `matrix`"),
        (function("Missing"), "cannot be evaluated: name 'Missing'"),
        (function(int, typing.Iterator[int]), "what is returned at its end"),
        (function(int, object), None),
        (function(int, list[complex]), "the returned value"),
        (function(typing.Callable[[], int]), "parameter `x`"),
    ],
)
def test_annotations_that_tell_no_signature(of: Callable[..., Any], reason: str | None) -> None:
    """The message says which, and what to do."""
    if reason is None:
        assert derive(of, "shop:f").outputs == (Field("result", "any"),)
        return
    with pytest.raises(SignatureError, match="give it as `signature`") as refused:
        derive(of, "shop:f")
    assert reason in str(refused.value)
    assert "shop:f" in str(refused.value)


@pytest.mark.parametrize(
    ("returned", "type_", "names"),
    [
        (Point, "object", ["color", "x"]),
        (Typed, "object", ["points"]),
        (Model, "object", ["a"]),
        (Struct, "object", ["a"]),
        (Named, "array", ["result"]),
        (np.ndarray, "array", ["result"]),
        (np.float64, "number", ["result"]),
        (np.int32, "integer", ["result"]),
        (np.bool_, "boolean", ["result"]),
        (pd.DataFrame, "array", ["result"]),
        (pd.Timestamp, "string", ["result"]),
        (np.datetime64, "string", ["result"]),
        (Point | None, "object", ["result"]),
        (dict[str, int], "object", ["result"]),
        (None, "any", ["result"]),
    ],
)
def test_the_outputs_that_an_annotation_tells(returned: Any, type_: FieldType, names: list[str]) -> None:
    """A record's members are the outputs; any other value is the one output `result`."""
    signature = derive(function(int, returned), "shop:f")
    assert sorted(one.name for one in signature.outputs) == names
    if names == ["result"]:
        assert signature.outputs[0].type == type_


def test_a_derived_value_is_never_taken_for_the_mapping() -> None:
    """A dict with the one key `result` is a value like any other."""
    of = function(int, dict[str, int])
    _, outputs = validators_of(derive(of, "shop:f"), of)
    assert json(outputs.outputs({"result": 1})) == {"result": {"result": 1}}


def test_a_nan_inside_a_typed_output_becomes_null() -> None:
    """As in one without annotations; another fault beside it is still found."""
    of = function(int, list[float])
    _, outputs = validators_of(given_signature("integer", "array"), of)
    assert json(outputs.outputs([1.5, float("nan"), np.float64("inf")])) == {"result": [1.5, None, None]}
    with pytest.raises(InvalidOutputs) as refused:
        outputs.outputs([float("nan"), "a"])
    assert refused.value.field == "result"
    with pytest.raises(InvalidOutputs):
        outputs.outputs([None])


@pytest.mark.parametrize(
    ("kind", "sent"),
    [
        ("scalars", [1, 0.5, True, "a", "2026-01-02"]),
        ("array", [[0.0, 0.5, 1.0], [1.5, 2.0, 2.5]]),
        ("holes", [1.0, None]),
        ("times", ["2026-01-02T03:04:05", None]),
        ("keys", {"1": [True]}),
        ("model", {"order": {"number": 1, "lines": [{"sku": "hat", "qty": 2}], "due": "2026-01-02"}}),
        (
            "frame",
            [{"sku": "hat", "sold": 1.5, "on": "2026-01-02T00:00:00"}, {"sku": None, "sold": None, "on": None}],
        ),
        ("series", [1, None]),
        ("bytes", "AP8="),
        ("extension", [["a", None], [1, None]]),
        ("periods", ["2026-01", "(0, 1]"]),
    ],
)
def test_objects_of_libraries_have_json(kind: str, sent: Any) -> None:
    """Each goes out as Python's own objects would."""
    outputs = OutputValidator((Field("result", "any"),))
    assert json(outputs.outputs(programs.returns(kind))) == {"result": sent}


@pytest.mark.parametrize(
    ("kind", "place", "reason"),
    [
        ("complex", "$.result[1]", "a complex number has no JSON"),
        ("same names", "$.result", "columns have the same name"),
        ("unknown", "$.result.rows[0].made", "a value of type 'object' has no JSON"),
        ("generator", "$.result.rows", "a value of type 'generator' has no JSON"),
        ("keyed", "$.result", "a tuple as a key has no JSON"),
    ],
)
def test_what_has_no_json_is_named(kind: str, place: str, reason: str) -> None:
    """The field, the place inside it, and why."""
    outputs = OutputValidator((Field("result", "any"),))
    with pytest.raises(InvalidOutputs) as refused:
        outputs.outputs(programs.returns(kind))
    assert refused.value.field == "result"
    assert reason in refused.value.detail
    assert f"`{place}`" in refused.value.detail


@pytest.mark.parametrize(
    "field", [Field("result", "number"), Field("result", "any"), Field("result", "any", required=False)]
)
@pytest.mark.parametrize("kind", ["nan", "numpy", "infinite"])
def test_a_nan_as_an_output_is_named(kind: str, field: Field) -> None:
    """Not as a null that the program never returned, also if the output may be null."""
    outputs = OutputValidator((field,))
    with pytest.raises(InvalidOutputs, match=r"(nan|inf) has no JSON - at `\$\.result`") as refused:
        outputs.outputs(programs.number(kind))
    assert refused.value.field == "result"
    assert json(outputs.outputs(programs.number("fits"))) == {"result": 0.5}


@dataclasses.dataclass
class Measured:
    value: float | None
    unit: str | None = None


class MeasuredModel(pydantic.BaseModel):
    value: float | None
    unit: str | None = None


@pytest.mark.parametrize("kind", [float | None, Any, np.float32, Measured, MeasuredModel])
@pytest.mark.parametrize("number", [float("nan"), float("inf"), np.float32("nan")])
def test_a_nan_as_an_annotated_output_is_named(kind: Any, number: Any) -> None:
    """Though null would fit; a None that the program returns is null."""
    is_record = kind in (Measured, MeasuredModel)

    def made(value: Any) -> Any:
        return kind(value=value) if is_record else value

    of = function(int, kind)
    _, outputs = validators_of(derive(of, "shop:f"), of)
    with pytest.raises(InvalidOutputs, match=r"(nan|inf) has no JSON") as refused:
        outputs.outputs(made(number))
    assert refused.value.field == ("value" if is_record else "result")
    if kind is not np.float32:
        nothing = {"value": None, "unit": None} if is_record else {"result": None}
        assert json(outputs.outputs(made(None))) == nothing


SCHEMA = {
    "type": "array",
    "items": {"$ref": "#/$defs/line"},
    "$defs": {
        "line": {
            "type": "object",
            "properties": {"sku": {"type": "string", "pattern": "^[a-z]+$"}, "on": {"format": "date"}},
            "required": ["sku"],
        }
    },
}


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ([{"sku": "hat", "on": "2026-01-02"}], None),
        ([], None),
        ([{"sku": "hat"}, {"sku": 1}], "$.x[1].sku"),
        ([{}], "$.x[0]"),
        ([{"sku": "Hat"}], "$.x[0].sku"),
        ([{"sku": "hat", "on": "soon"}], "$.x[0].on"),
    ],
)
def test_a_schema_is_checked_in_and_out(value: Any, place: str | None) -> None:
    """The field, the place inside it, and no value, which may be a secret."""
    field = Field("x", "array", schema=SCHEMA)
    inputs, outputs = InputValidator((field,)), OutputValidator((field, Field("n", "integer")))
    if place is None:
        assert inputs.inputs(encode({"x": value})) == {"x": value}
        assert json(outputs.outputs({"x": value, "n": 1})) == {"x": value, "n": 1}
        return
    with pytest.raises(InvalidInputs) as refused:
        inputs.inputs(encode({"x": value}))
    with pytest.raises(InvalidOutputs) as returned:
        outputs.outputs({"x": value, "n": 1})
    for error in (refused.value, returned.value):
        assert error.field == "x"
        assert error.detail.endswith(f" - at `{place}`")
        assert "Hat" not in error.detail


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "nonsense"}, "/type"),
        ({"pattern": "("}, "/pattern"),
        ({"$ref": "#/$defs/missing"}, "/$defs/missing"),
        ({"$ref": "http://127.0.0.1:1/schema"}, "Retrieval is disabled"),
        ({"$ref": "file:///etc/hostname"}, "Retrieval is disabled"),
        ({"minimum": 10}, "the default of field 'x' does not fit"),
    ],
)
def test_a_schema_that_is_not_valid(schema: dict[str, Any], reason: str) -> None:
    """The message names the field and the place in the schema; nothing is fetched."""
    with pytest.raises(SignatureError) as refused:
        InputValidator((Field("x", "integer", required=False, default=5, schema=schema),))
    assert "'x'" in str(refused.value)
    assert reason in str(refused.value)


@pytest.mark.parametrize("pattern", ["^(a+)+$", r"^(?=a)(a|aa)+\1$"])
def test_a_pattern_has_an_end(pattern: str) -> None:
    """One that would search for ever is refused as a misfit, or decided at once."""
    inputs = InputValidator((Field("x", "string", schema={"pattern": pattern}),))
    with pytest.raises(InvalidInputs):
        inputs.inputs(encode({"x": "a" * 50_000 + "b"}))


@pytest.mark.parametrize(
    ("schema", "kind"),
    [
        ({"type": "integer"}, "integer"),
        ({"type": ["string", "null"]}, "string"),
        ({"type": ["integer", "number"]}, "number"),
        ({"enum": ["a", "b"]}, "string"),
        ({"enum": [1, "b"]}, "any"),
        ({"const": True}, "boolean"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"type": "array"}}}, "array"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}, "any"),
        ({"$ref": "#"}, "any"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}] * 40 + [{"type": "null"}]}}}, "any"),
        ({"anyOf": [{"type": "object"}, {"type": "null"}]}, "object"),
        ({"allOf": [{"type": "object"}]}, "object"),
        ({"allOf": [{"type": "integer"}, {"minimum": 3}]}, "integer"),
        ({"allOf": [{"type": "number"}, {"type": ["integer", "string"]}]}, "integer"),
        ({"type": "number", "allOf": [{"type": "number"}, {"type": ["integer", "number"]}]}, "number"),
        ({"type": ["string", "integer"], "enum": ["a", True]}, "string"),
        ({"allOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/a"}], "$defs": {"a": {"type": "array"}}}, "array"),
        ({"properties": {}}, "any"),
        ({}, "any"),
        ({"type": 5, "anyOf": "x", "enum": 3}, "any"),
    ],
)
def test_the_type_that_a_schema_allows(schema: dict[str, Any], kind: FieldType) -> None:
    """Null aside; `any` if it allows several types, or says nothing. A field of that type may have the schema."""
    assert type_of_schema(schema) == kind
    assert allows_type(schema, kind)


@pytest.mark.parametrize(
    ("schema", "kind"),
    [
        ({"allOf": [{"type": "object"}, {"minProperties": 1}]}, "array"),
        ({"allOf": [{"type": "object"}, {"type": "array"}]}, "object"),
        ({"type": "string", "enum": [1, 2]}, "string"),
        ({"type": ["string", "integer"], "anyOf": [{"type": "integer"}, {"type": "array"}]}, "string"),
        ({"enum": []}, "string"),
    ],
)
def test_a_type_that_no_value_of_the_schema_has(schema: dict[str, Any], kind: FieldType) -> None:
    """All parts of a schema count."""
    assert not allows_type(schema, kind)


SIDES = st.lists(
    st.builds(
        Field,
        name=st.sampled_from(["a", "b", "c"]),
        type=st.sampled_from(["string", "integer", "number", "boolean", "array", "object", "any"]),
        required=st.booleans(),
    ),
    min_size=1,
    max_size=3,
    unique_by=lambda field: field.name,
)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates() | st.sampled_from(["\ud800"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=6,
)
RETURNED = st.dictionaries(st.sampled_from(["a", "b", "c", "d"]), PLAIN, max_size=4) | PLAIN


@given(fields=SIDES, returned=RETURNED)
def test_outputs_that_surely_fit_are_those_that_do(fields: list[Field], returned: Any) -> None:
    """The short way, without a second parse, takes nothing that the long way refuses or writes otherwise."""
    short, long = OutputValidator(tuple(fields)), OutputValidator(tuple(fields))
    long._plain_types = {}

    def outcome(validator: OutputValidator) -> bytes | str:
        try:
            return validator.outputs(returned)
        except InvalidOutputs as error:
            return str(error)

    assert outcome(short) == outcome(long)
