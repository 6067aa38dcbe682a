"""`poolshift migration validate` with two checkouts of the user's own programs, of which V2's has one fault."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cli.validation.live import check_error_rate
from tests.conftest import StartService
from tests.lm.endpoint import running_endpoint
from tests.service.test_migration_validate import ON_BOTH, not_met, validated
from tests.support.service import Service
from tests.support.waiting import wait_until

pytestmark = [ON_BOTH, pytest.mark.timing, pytest.mark.judge]

RIGHT = """
def total(count: int) -> int:
    return 3 * count
"""
SLOW = """
import time

def total(count: int) -> int:
    time.sleep(0.05)
    return 3 * count
"""
RAISING = """
def total(count: int) -> int:
    if count == 7:
        raise ValueError("no price for seven")
    return 3 * count
"""
WRONG = """
def total(count: int) -> int:
    return 3 * count - (count > 100)
"""
COUNTED = """
import dspy

class Note(dspy.Module):
    def __init__(self):
        super().__init__()
        self.write = dspy.Predict("topic -> note")

    def forward(self, topic: str) -> dspy.Prediction:
        return self.write(topic=topic)
"""
UNCOUNTED = """
import json
import urllib.request

import dspy

class Note(dspy.Module):
    def __init__(self):
        super().__init__()
        self.write = dspy.Predict("topic -> note")

    def forward(self, topic: str) -> dspy.Prediction:
        body = json.dumps({{"messages": [{{"role": "user", "content": topic}}]}}).encode()
        headers = {{"authorization": "Bearer none", "content-type": "application/json"}}
        with urllib.request.urlopen(urllib.request.Request("{url}/chat/completions", body, headers)) as answer:
            said = json.load(answer)["choices"][0]["message"]["content"]
        return dspy.Prediction(note=said)
"""


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """The inputs of a validation: two calls of `total`."""
    path = tmp_path / "inputs.jsonl"
    path.write_text("".join(json.dumps({"program_id": "total", "inputs": {"count": n}}) + "\n" for n in (7, 8)))
    return path


def checkouts(directory: Path, v1: str, v2: str) -> dict[str, Any]:
    """Writes the module `orders` of each version, and returns the settings that give each pool its own."""
    settings: dict[str, Any] = {"ENGINE": "session_pool_v2", "PROGRAM_MODULES": "orders"}
    for version, source in (("v1", v1), ("v2", v2)):
        folder = directory / version
        folder.mkdir()
        (folder / "orders.py").write_text(source)
        settings[f"{version.upper()}_PROGRAMS_DIR"] = folder
    return settings


def create_total(service: Service) -> None:
    described = {"id": "total", "instructions": "Adds up an order.", "idempotent": True}
    service.create("orders:total", {"count": "integer"}, output="integer", **described)


def test_a_slow_v2_is_named(start_service: StartService, tmp_path: Path, inputs: Path) -> None:
    """V2's code sleeps 50 ms in each call: the benchmarks alone are not met."""
    service = start_service(**checkouts(tmp_path, RIGHT, SLOW))
    create_total(service)
    states = validated(service, inputs)
    assert not_met(states) == {"benchmarks"}, states


def test_a_v2_that_raises_is_named_by_the_load(start_service: StartService, tmp_path: Path, inputs: Path) -> None:
    """V2's code raises for one of the inputs: load alone is not met, and the code of the error is told."""
    service = start_service(**checkouts(tmp_path, RIGHT, RAISING))
    create_total(service)
    states = validated(service, inputs)
    assert not_met(states) == {"load"}, states
    assert "program_error" in states["load"][1]
    assert states["benchmarks"][0] == "unknown"


def test_a_v2_too_small_for_the_load_is_named(start_service: StartService, tmp_path: Path, inputs: Path) -> None:
    """V2's one worker serves as much as V1's engine, and not twice the peak: load alone is not met."""
    sizes = {"V1_ENGINE": "session_pool", "V2_POOL_SIZE": 1, "QUEUE_LIMIT": 8}
    service = start_service(**checkouts(tmp_path, SLOW, SLOW), **sizes)
    create_total(service)
    states = validated(service, inputs, rate=20)
    assert not_met(states) == {"load"}, states
    assert "pool_overloaded" in states["load"][1]


def test_a_v2_with_wrong_totals_is_named(start_service: StartService, tmp_path: Path, inputs: Path) -> None:
    """V2 is wrong for orders that the inputs lack and the shadow calls have: the error rate alone is not met."""
    shadow = {"SHADOW_PERCENT": 100, "SHADOW_MAX_CPU_PERCENT": 100}
    service = start_service(**checkouts(tmp_path, RIGHT, WRONG), **shadow)
    create_total(service)

    def is_seen() -> bool:
        assert service.execute("total", inputs={"count": 101}).json()["outputs"] == {"result": 303}
        return check_error_rate(service.client).state != "unknown"

    wait_until(is_seen, "the shadow calls tell")
    states = validated(service, inputs)
    assert not_met(states) == {"error_rate"}, states
    assert "total result" in states["error_rate"][1]


@contextmanager
def start_with_notes(start_service: StartService, directory: Path) -> Iterator[Service]:
    """Starts a service with the program `note` on a model of the test's own. V2's code calls the model past DSPy."""
    with running_endpoint() as endpoint:
        base = endpoint.base("answers", "everyone")
        lm = {"LM_MODEL": "openai/test", "LM_API_BASE": base, "LM_API_KEY": "sk-test"}
        service = start_service(**checkouts(directory, COUNTED, UNCOUNTED.format(url=base)), **lm)
        fields = {
            name: [{"name": field, "type": "string"}] for name, field in (("inputs", "topic"), ("outputs", "note"))
        }
        signature = {"description": "Writes a note.", **fields}
        body = {"id": "note", "program_type": "dspy", "entrypoint": "orders:Note", "signature": signature}
        created = service.client.post("/programs", json=body)
        assert created.status_code == 201, created.text
        yield service


@pytest.mark.lm
def test_a_v2_whose_tokens_nobody_counts_is_named(start_service: StartService, tmp_path: Path) -> None:
    """V2's code calls the model past DSPy, so V2's series of tokens stay silent: the metrics alone are not met."""
    path = tmp_path / "inputs.jsonl"
    path.write_text('{"program_id": "note", "inputs": {"topic": "tea"}}\n')
    with start_with_notes(start_service, tmp_path) as service:
        states = validated(service, path)
    assert not_met(states) == {"metrics"}, states
    assert "tokens of note" in states["metrics"][1]
