"""The client describes what the OpenAPI document has: each operation, and each member of an answer."""

import inspect
from collections.abc import Callable, Iterator
from types import NoneType
from typing import Any, get_args, get_origin
from urllib.parse import unquote

import msgspec

from poolshift.client import executions, failures, migration, pools, programs, ramp, rollout, sessions, shadow
from poolshift.client.calls import Call, Listing
from tests.support.documented import document

DOCUMENT: dict[str, Any] = document()
METHODS = ("get", "put", "post", "patch", "delete")
ARGUMENTS: dict[str, Any] = {"inputs": [], "definition": {}, "definitions": [], "plan": {}, "model": "none"}
"""Values of the arguments that are not a part of the path."""


def descriptions() -> Iterator[Callable[..., Call[Any] | Listing[Any]]]:
    """Every function that describes a call."""
    for module in (executions, failures, migration, pools, programs, ramp, rollout, sessions, shadow):
        for name, function in inspect.getmembers(module, inspect.isfunction):
            kind = get_origin(inspect.signature(function).return_annotation)
            if function.__module__ == module.__name__ and not name.startswith("_") and kind in (Call, Listing):
                yield function


def described(function: Callable[..., Call[Any] | Listing[Any]]) -> Iterator[tuple[str, str]]:
    """The method and the path of a description, without its optional arguments and with a session."""
    parameters = inspect.signature(function).parameters
    needed = [name for name, parameter in parameters.items() if parameter.default is parameter.empty]
    given = {name: ARGUMENTS.get(name, f"{{{name}}}") for name in needed}
    for arguments in (given, {**given, "session_id": "{session_id}"} if "session_id" in parameters else given):
        made = function(**arguments)
        call: Call[Any] | None = made.page() if isinstance(made, Listing) else made
        assert call is not None
        yield call.method.lower(), unquote(call.path)


def struct_types(kind: Any) -> Iterator[type[msgspec.Struct]]:
    """The structs in a type, such as those in `list[Pool]`."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        yield kind
    for argument in get_args(kind):
        yield from struct_types(argument)


def schemas(schema: Any) -> Iterator[dict[str, Any]]:
    """The schemas with properties in a schema, without going into the properties."""
    if "$ref" in schema:
        yield from schemas(DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]])
    elif "properties" in schema:
        yield schema
    for part in (schema.get("items"), *schema.get("anyOf", ()), schema.get("additionalProperties")):
        if isinstance(part, dict):
            yield from schemas(part)


def compare(kind: Any, schema: dict[str, Any], compared: set[type]) -> None:
    """Compares the fields of a struct with the members of its schema, and goes on with theirs."""
    for struct in struct_types(kind):
        (described,) = schemas(schema)
        if struct in compared:
            continue
        compared.add(struct)
        fields = {field.encode_name: field.type for field in msgspec.structs.fields(struct)}
        assert fields.keys() == described["properties"].keys(), struct
        for name, inner in fields.items():
            compare(inner, described["properties"][name], compared)


def test_every_operation_of_the_service_is_a_method() -> None:
    """Nothing that the OpenAPI document describes is left out, and nothing is made up."""
    known = {(method, path) for path, item in DOCUMENT["paths"].items() for method in METHODS if method in item}
    assert {one for function in descriptions() for one in described(function)} == known


def test_an_answer_has_the_fields_of_the_service() -> None:
    """A struct of the client has each member that its schema has, and no other; so have the structs in it."""
    compared: set[type] = {
        executions.Execution,
        executions.Job,
    }  # one is either here or a problem, one is answered by 202
    for function in descriptions():
        (kind,) = get_args(inspect.signature(function).return_annotation)
        method, path = next(described(function))
        responses = DOCUMENT["paths"][path][method]["responses"]
        content = (responses.get("200") or responses.get("201") or {}).get("content", {}).get("application/json")
        if content is None:
            assert kind in (NoneType, str, ramp.Trace)
            continue
        (schema,) = schemas(content["schema"])
        page = "next_cursor" in schema["properties"]
        compare(kind, schema["properties"]["items"] if page else schema, compared)
    assert len(compared) > 25
