"""The OpenAPI document: described, with examples that fit, and without references to nothing."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from app.openapi.document import EXECUTION_HEADERS, operations
from app.problem_kinds import KINDS
from tests.support.documented import document

DOCUMENT = document()
OPERATIONS = {operation["operationId"]: operation for _, operation in operations(DOCUMENT)}
COMPONENTS = DOCUMENT["components"]
SCHEMAS = COMPONENTS["schemas"]


def inside(value: Any) -> Iterator[dict[str, Any]]:
    """Yields each object of a document."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from inside(one)


def test_every_reference_leads_somewhere() -> None:
    """And nothing is left of schemas that were made one by one."""
    for one in inside(DOCUMENT):
        assert "$defs" not in one
        if isinstance(target := one.get("$ref"), str):
            assert target.startswith("#/components/"), target
            found: Any = DOCUMENT
            for part in target.removeprefix("#/").split("/"):
                assert part in found, target
                found = found[part]


def test_operation_ids_are_short_names() -> None:
    """As a function of a generated client is called, and no two alike."""
    assert len(OPERATIONS) == len(list(operations(DOCUMENT)))
    for name in OPERATIONS:
        assert re.fullmatch(r"[a-z]+(_[a-z]+){0,3}", name), name
    assert {"execute_program", "list_programs", "start_ramp"} <= OPERATIONS.keys()


def test_everything_is_described() -> None:
    """Models, their fields, parameters, operations, answers and tags."""
    for name, schema in SCHEMAS.items():
        assert schema.get("description"), name
        for field, value in schema.get("properties", {}).items():
            assert value.get("description"), f"{name}.{field}: describe it here or in app/openapi/field_notes.py"
    tags = {tag["name"] for tag in DOCUMENT["tags"]}
    for name, operation in OPERATIONS.items():
        assert operation["description"], name
        assert set(operation["tags"]) <= tags, name
        assert all(response["description"] for response in operation["responses"].values()), name
        for parameter in operation.get("parameters", ()):
            assert parameter.get("description"), f"{name}({parameter['name']})"


@pytest.mark.parametrize("name", OPERATIONS)
def test_examples_fit(name: str) -> None:
    """Each body of JSON has one at least, and all fit its schema."""
    operation = OPERATIONS[name]
    contents = [operation.get("requestBody", {}), *operation["responses"].values()]
    for content in (one.get("content", {}) for one in contents):
        for media_type, media in content.items():
            examples = [media["example"]] if "example" in media else list(media["examples"].values())
            assert examples
            if media_type.endswith("json"):
                validator = Draft202012Validator({**media["schema"], "components": COMPONENTS})
                for example in map(resolved, examples):
                    faults = [fault.message for fault in validator.iter_errors(example)]
                    assert faults == [], json.dumps(example)


def resolved(example: Any) -> Any:
    """Follows the reference of an example, if it is one."""
    if not isinstance(example, dict) or "$ref" not in example:
        return example
    return COMPONENTS["examples"][example["$ref"].rpartition("/")[2]]["value"]


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_error_has_its_status_and_schema(name: str) -> None:
    """All codes of an operation are under their status, as problems; no status stands for many."""
    operation = OPERATIONS[name]
    listed = {}
    for status, response in operation["responses"].items():
        assert status.isdecimal()
        if (media := response.get("content", {}).get("application/problem+json")) is not None:
            assert media["schema"] == {"$ref": "#/components/schemas/ProblemView"}
            listed[int(status)] = set(media["examples"])
            for code in media["examples"]:
                assert f"`{code}`" in response["description"]
    expected: dict[int, set[str]] = {}
    for code in operation["x-problems"]:
        expected.setdefault(KINDS[code].status, set()).add(code)
    assert listed == expected
    assert {200, 201, 202, 204} & {int(status) for status in operation["responses"]}


def test_headers_are_listed() -> None:
    """The headers of every execution, of errors and of what has a revision."""
    for status, response in OPERATIONS["execute_program"]["responses"].items():
        assert set(EXECUTION_HEADERS) <= response["headers"].keys(), status
    assert "Retry-After" in OPERATIONS["execute_program"]["responses"]["503"]["headers"]
    assert "WWW-Authenticate" in OPERATIONS["list_programs"]["responses"]["401"]["headers"]
    assert {"Location", "ETag"} <= OPERATIONS["create_program"]["responses"]["201"]["headers"].keys()
