"""Requests that are as dear as a client can make them: each is bounded, and none holds the event loop for long."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.service import Service
from tests.support.watched_service import HOLDS

MOST_MS = 50.0
"""The longest hold of the event loop, in time of a processor."""
ANY_INPUTS = """
def anything(**inputs: object) -> object:
    return 1
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that measures its event loop, with a program that takes any inputs."""
    directory = tmp_path_factory.mktemp("dear")
    (directory / "anything.py").write_text(ANY_INPUTS)
    command = [sys.executable, "-m", "tests.support.watched_service"]
    settings = {HOLDS: directory / "holds", "PROGRAM_MODULES": "anything", "LM_MODEL": "none"}
    service = Service(directory, command=command, **settings)
    service.client.event_hooks = {}  # half of these bodies have no place in the OpenAPI document
    try:
        service.start()
        yield service
    finally:
        service.close()


def program(*inputs: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A definition with these inputs."""
    signature = {"inputs": list(inputs), "outputs": [{"name": "result", "type": "integer"}]}
    return {"program_type": "python", "entrypoint": "anything:anything", "signature": signature, **more}


def of_schema(schema: dict[str, Any], count: int = 1) -> dict[str, Any]:
    """A definition with `count` inputs of this schema."""
    return program(*({"name": f"f{index}", "type": "any", "schema": schema} for index in range(count)))


def constants(values: Any, keyword: str = "const") -> dict[str, Any]:
    """A schema that allows these values, each by a schema of its own."""
    return {"anyOf": [{keyword: value if keyword == "const" else [value]} for value in values]}


def unknown(count: int) -> dict[str, int]:
    """So many members that no body has."""
    return {f"unknown{index}": 1 for index in range(count)}


V2 = "/programs/dear?pool_version=v2"
DEAR: dict[str, tuple[str, str, Any, int]] = {
    "a schema of many constants": ("PUT", "/programs/dear", of_schema(constants(range(2000))), 201),
    "the same constants in another order": ("PUT", V2, of_schema(constants(reversed(range(2000)))), 201),
    "the constants as another keyword": ("PUT", V2, of_schema(constants(reversed(range(2000)), "enum")), 409),
    "the same, tried alone": ("PUT", f"{V2}&dry_run=true", of_schema(constants(reversed(range(2000)), "enum")), 409),
    "schemas of the largest size": ("POST", "/programs", of_schema({"enum": list(range(10_000))}, 15), 201),
    "schemas of many properties": (
        "POST",
        "/programs",
        of_schema({"properties": {f"p{index}": {} for index in range(4000)}}, 12),
        201,
    ),
    "a chain of references": (
        "POST",
        "/programs",
        of_schema({"$defs": {f"d{n}": {"$ref": f"#/$defs/d{n + 1}"} for n in range(1400)}, "$ref": "#/$defs/d0"}),
        422,
    ),
    "a large default": ("POST", "/programs", program({"name": "a", "type": "array", "default": [[]] * 200_000}), 201),
    "a state that is too large": (
        "POST",
        "/programs",
        {"program_type": "predict", "signature": "a->b", "state": {f"a{index}": {} for index in range(75_000)}},
        422,
    ),
    "unknown members of a program": ("POST", "/programs", {**program(), **unknown(50_000)}, 422),
    "unknown members of a language model": ("PUT", "/lm", {"model": "none", **unknown(50_000)}, 422),
    "unknown members of the rollout": ("PATCH", "/rollout", unknown(50_000), 422),
    "a plan of much YAML": ("PUT", "/rollout/plan", "a: [" + "[]," * 300_000 + "]", 422),
    "a plan of the largest size": ("PUT", "/rollout/plan", "a: [" + "[]," * 21_000 + "]", 422),
    "inputs to compare": ("POST", "/shadow/dear/compare", {"inputs": {f"a{n}": [1, 2] for n in range(60_000)}}, 422),
    "a batch with too many items": ("POST", "/programs/dear/batch", {"inputs": [{}] * 250_000}, 422),
    "inputs with many members": ("POST", "/programs/dear/execute", {"inputs": unknown(50_000)}, 422),
    "a member that is there many times": ("POST", "/programs/dear/execute", "{" + '"inputs":{},' * 80_000, 422),
}


@pytest.mark.parametrize("name", DEAR)
def test_no_request_holds_the_event_loop(service: Service, name: str) -> None:
    """The longest hold while it is served; its answer is small unless it shows what was sent."""
    method, path, body, status = DEAR[name]
    content = body if isinstance(body, str) else json.dumps(body, separators=(",", ":"))
    assert len(content) < 1024 * 1024, "MAX_BODY_BYTES would refuse it"
    holds = service.directory / "holds"
    before = holds.stat().st_size
    answer = service.client.request(method, path, content=content, headers={"content-type": "application/json"})
    assert answer.status_code == status, answer.text[:1000]
    assert status < 400 or len(answer.content) < 64 * 1024
    assert service.client.get("/healthz").status_code == 200  # the loop has gone round since
    told = [float(line) for line in _since(holds, before)]
    assert not told or max(told) < MOST_MS, told


def _since(path: Path, position: int) -> list[str]:
    with path.open() as file:
        file.seek(position)
        return file.read().split()
