"""Types of inputs and outputs, on real workers of both versions: schemas, annotations, objects of libraries."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.conftest import StartService
from tests.support.service import PROGRAM_MODULES, Service, running_service
from tests.support.waiting import wait_until

TYPED = "tests.support.typed_programs"
MODULES = f"{PROGRAM_MODULES},{TYPED}"
LINES = {
    "type": "array",
    "items": {"$ref": "#/$defs/line"},
    "$defs": {
        "line": {
            "type": "object",
            "properties": {"sku": {"type": "string"}, "quantity": {"type": "integer", "minimum": 1}},
            "required": ["sku"],
            "additionalProperties": False,
        }
    },
}


@pytest.fixture(scope="module")
def service(version: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running_service(tmp_path_factory.mktemp("types"), POOL_VERSION=version, PROGRAM_MODULES=MODULES) as running:
        yield running


@pytest.fixture
def own_service(start_service: StartService, version: str) -> Service:
    """A service that a test may stop and start."""
    return start_service(POOL_VERSION=version, PROGRAM_MODULES=MODULES)


def derived(service: Service, function: str) -> dict[str, Any]:
    """Creates a program whose signature its function's annotations tell, and returns it."""
    answer = service.client.post("/programs", json={"program_type": "python", "entrypoint": f"{TYPED}:{function}"})
    assert answer.status_code == 201, answer.text
    program: dict[str, Any] = answer.json()
    assert program["signature"]["derived"] is True
    assert service.client.get(f"/programs/{program['id']}").json()["signature"] == program["signature"]
    return program


def refusal(answer: httpx.Response, code: str, field: str | None = None) -> str:
    """The detail of a problem."""
    problem: dict[str, Any] = answer.json()
    assert (problem["code"], problem.get("field")) == (code, field), problem
    detail: str = problem["detail"]
    return detail


def refused_creation(service: Service, **body: Any) -> str:
    """The detail of a creation's refusal."""
    return refusal(service.client.post("/programs", json={"program_type": "python", **body}), "invalid_request")


def test_a_signature_from_dataclasses_and_enumerations(service: Service) -> None:
    """The creation answers with it, the function gets the objects, and what does not fit is named, in and out."""
    program = derived(service, "parcels")
    inputs, outputs = program["signature"]["inputs"], program["signature"]["outputs"]
    assert [(one["name"], one["type"], one["required"]) for one in inputs] == [
        ("parcels", "array", True),
        ("size", "string", False),
    ]
    assert inputs[0]["schema"]["$defs"]["Parcel"]["required"] == ["grams", "size"]
    assert {one["name"]: (one["type"], one["required"]) for one in outputs} == {
        "total": ("number", True),
        "heaviest": ("object", False),
    }
    parcel = {"grams": 900, "size": "L", "to": {"city": "Bern", "lines": ["a", "b"]}}
    answer = service.execute(program["id"], inputs={"parcels": [parcel]})
    assert answer.json()["outputs"] == {"total": 900.0, "heaviest": parcel}
    answer = service.execute(program["id"], inputs={"parcels": [], "size": "S"})
    assert answer.json()["outputs"] == {"total": 0.0, "heaviest": None}
    parcel["to"] = {"city": 5}
    answer = service.execute(program["id"], inputs={"parcels": [parcel]})
    assert "`$.parcels[0].to.city`" in refusal(answer, "invalid_inputs", "parcels")


def test_a_signature_from_pydantic_models(service: Service) -> None:
    """Aliases, constraints and the models' own validators count; JSON goes in and out by alias."""
    program = derived(service, "order")
    assert [(one["name"], one["required"]) for one in program["signature"]["inputs"]] == [
        ("order", True),
        ("rush", False),
    ]
    order = {"number": 7, "lines": [{"sku": "hat", "qty": 2}], "due": None}
    assert service.execute(program["id"], inputs={"order": order}).json()["outputs"] == order
    answer = service.execute(program["id"], inputs={"order": order, "rush": True})
    assert answer.json()["outputs"] == {**order, "due": "2026-01-01"}
    for lines, place in (([{"sku": "hat", "qty": 0}], "`$.order.lines[0].qty`"), ([], "an order has lines")):
        answer = service.execute(program["id"], inputs={"order": {**order, "lines": lines}})
        assert place in refusal(answer, "invalid_inputs", "order")
        assert answer.json()["retry_safe"] is True
    lines = [{"sku": 1, "qty": 0}] * 6
    detail = refusal(
        service.execute(program["id"], inputs={"order": {"number": "x", "lines": lines}}), "invalid_inputs", "order"
    )
    assert all(place in detail for place in ("`$.order.number`", "`$.order.lines[0].sku`", "`$.order.lines[3].qty`"))
    assert detail.endswith("; and 3 more")


def test_a_derived_signature_outlives_the_service(own_service: Service) -> None:
    """The stored definition is checked by the annotations again, and shown as before."""
    program = derived(own_service, "days")
    fits = {"day": "2026-02-28", "count": 7, "marks": {"a": [1]}}
    for _ in range(2):
        assert own_service.client.get(f"/programs/{program['id']}").json()["signature"] == program["signature"]
        answer = own_service.execute(program["id"], inputs=fits)
        assert answer.json()["outputs"]["result"][:2] == ["2026-02-28", "2026-03-01"]
        refusal(own_service.execute(program["id"], inputs={**fits, "count": 2}), "invalid_inputs", "count")
        refusal(own_service.execute(program["id"], inputs={**fits, "marks": {"a": ["1"]}}), "invalid_inputs", "marks")
        own_service.stop()
        own_service.start()


def test_classes_generators_caches_and_bytes(service: Service) -> None:
    """A class has the annotations of its `__call__`, a generator those of what it returns; bytes are base64."""
    program = derived(service, "Labels")
    address = {"city": "Bern", "lines": ["a"]}
    assert service.execute(program["id"], inputs={"to": address}).json()["outputs"] == {"result": ["Bern", "a", ""]}
    answer = service.execute(program["id"], inputs={"to": address, "size": "S"})
    assert answer.json()["outputs"] == {"result": ["Bern", "a", "SMALL"]}
    refusal(service.execute(program["id"], inputs={"to": {"lines": []}}), "invalid_inputs", "to")
    program = derived(service, "counting")
    assert service.execute(program["id"], inputs={"steps": 2}).json()["outputs"] == {"city": "2", "lines": []}
    program = derived(service, "cached")
    for _ in range(3):
        assert service.execute(program["id"], inputs={"number": 4}).json()["outputs"] == {"result": 8}
    program = derived(service, "doubled")
    assert service.execute(program["id"], inputs={"blob": "AP8="}).json()["outputs"] == {"result": "AP8A/w=="}
    refusal(service.execute(program["id"], inputs={"blob": "?"}), "invalid_inputs", "blob")


def test_a_given_signature_with_schemas(own_service: Service) -> None:
    """They are checked in and out, shown as they were given, and kept over a restart."""
    field = {"name": "nonce", "schema": LINES}
    signature = {"inputs": [field], "outputs": [{"name": "result", "schema": LINES}]}
    body = {
        "id": "lines",
        "program_type": "python",
        "entrypoint": "tests.support.programs:echo",
        "signature": signature,
    }
    created = own_service.client.post("/programs", json=body).json()
    assert created["signature"]["derived"] is False
    assert (created["signature"]["inputs"][0]["type"], created["signature"]["inputs"][0]["schema"]) == ("array", LINES)
    lines = [{"sku": "hat", "quantity": 2}]
    for _ in range(2):
        assert own_service.client.get("/programs/lines").json()["signature"] == created["signature"]
        assert own_service.execute("lines", inputs={"nonce": lines}).json()["outputs"] == {"result": lines}
        answer = own_service.execute("lines", inputs={"nonce": [*lines, {"sku": "hat", "quantity": 0}]})
        assert "`$.nonce[1].quantity`" in refusal(answer, "invalid_inputs", "nonce")
        own_service.stop()
        own_service.start()
    only_out = {**body, "id": "out", "signature": {**signature, "inputs": [{"name": "nonce", "type": "any"}]}}
    assert own_service.client.post("/programs", json=only_out).status_code == 201
    answer = own_service.execute("out", inputs={"nonce": [{"sku": "hat", "size": 5}]})
    assert "`$.result[0]`" in refusal(answer, "invalid_outputs", "result")


def test_outputs_that_do_not_fit_are_logged(service: Service) -> None:
    """The field and the reason are in the answer and in the log, with the execution's id."""
    program = service.create(f"{TYPED}:liar", {"kind": "string"}, "array")
    for kind, reason in (
        ("text", "Expected `array`, got `str` - at `$.result`"),
        ("item", "Expected `int`, got `str` - at `$.result[1]`"),
        ("nan", "Expected `int`, got `null` - at `$.result[1]`"),
        ("object", "a value of type 'object' has no JSON - at `$.result[1]`"),
    ):
        answer = service.execute(program, inputs={"kind": kind})
        assert refusal(answer, "invalid_outputs", "result") == f"outputs: {reason}"
        execution = answer.headers["x-execution-id"]

        def is_logged(execution: str = execution, reason: str = reason) -> bool:
            lines = [line for line in service.log().splitlines() if execution in line]
            return any("outputs do not fit" in line and reason in line and "result" in line for line in lines)

        wait_until(is_logged, "the misfit is logged")


@pytest.mark.parametrize("kind", ["scalars", "array", "frame", "model", "bytes", "series"])
def test_objects_of_libraries_come_out(service: Service, kind: str) -> None:
    """As `tests/unit/test_type_rules.py` has them in detail."""
    program = service.create(f"{TYPED}:returns", {"kind": "string"}, "any")
    answer = service.execute(program, inputs={"kind": kind})
    assert answer.status_code == 200, answer.text
    assert answer.json()["outputs"]["result"]


FIELD = {"name": "x", "type": "any"}


def test_a_signature_that_nobody_tells(shared_service: Service) -> None:
    """Neither the body nor the annotations: the message says which, and what to do."""
    detail = refused_creation(shared_service, entrypoint="tests.support.programs:keyword_count")
    assert "parameter `keywords` takes any keyword arguments; give it as `signature`" in detail
    assert "needs a signature" in refused_creation(shared_service, program_type="predict")


@pytest.mark.parametrize(
    ("field", "says"),
    [
        ({"name": "x"}, "a field needs a `type` or a `schema`"),
        ({"name": "x", "schema": {"type": "nonsense"}}, "the schema of field 'x' is not valid at /type"),
        ({"name": "x", "schema": {"pattern": "("}}, "is not valid at /pattern"),
        ({"name": "x", "schema": {"$ref": "https://example.com/item"}}, "stays inside its schema"),
        ({"name": "x", "schema": {"properties": {"enum": {"$ref": "other"}}}}, "is not valid"),
        ({"name": "x", "schema": {"$schema": "http://json-schema.org/draft-07/schema#"}}, "draft 2020-12"),
        ({"name": "x", "schema": {"description": "x" * 70_000}}, "over 65536 bytes"),
        ({"name": "x", "schema": {"type": "integer", "minimum": 3}, "default": 1}, "the default of field 'x'"),
        ({"name": "x", "schema": {"type": "integer"}, "default": "a"}, "the default does not fit the type"),
    ],
)
def test_a_schema_that_is_refused(shared_service: Service, field: dict[str, Any], says: str) -> None:
    """When the program is created, with the field and the reason."""
    signature = {"inputs": [field], "outputs": [FIELD]}
    detail = refused_creation(shared_service, entrypoint="tests.support.programs:keyword_count", signature=signature)
    assert says in detail


def test_a_schema_that_is_too_deep(shared_service: Service) -> None:
    """Levels have a bound; a deep value of a constant is data and has none but the body's."""
    deep: dict[str, Any] = {}
    for _ in range(70):
        deep = {"items": deep}
    for schema, is_taken in ((deep, False), ({"const": deep}, True)):
        signature = {"inputs": [{"name": "x", "type": "any", "schema": schema}], "outputs": [FIELD]}
        body = {"program_type": "python", "entrypoint": "tests.support.programs:keyword_count", "signature": signature}
        answer = shared_service.client.post("/programs", json=body)
        assert (answer.status_code == 201) is is_taken, answer.text
