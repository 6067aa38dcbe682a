"""`poolshift migration validate` on real services: it names exactly what is wrong with V2, and leaves nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import StartService
from tests.support.interpreters import virtual_environment
from tests.support.service import POOLSHIFT, Service

ON_BOTH = pytest.mark.skipif(os.environ.get("POOL_VERSION") == "v1", reason="is about both versions at once")
pytestmark = [ON_BOTH, pytest.mark.timing]

LEAK = """
kept = []
def work(size: int) -> int:
    kept.append("x" * 60_000)
    return len(kept)
"""
NO_ERROR = """
class Fails:
    def __call__(self, nonce: str) -> str:
        return nonce
"""
STEPS = """
def steps(count: int):
    for step in range(count):
        yield {"step": step}
    return count + 1
"""
CROSSING = """
secrets = []
def answer(nonce: str, secret: str = "") -> dict[str, str]:
    secrets.append(secret)
    return {"nonce": nonce, "secret": secrets[0]}
"""
HOOK = """
import importlib.util
import sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name != "poolshift.validation":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module
        def changed(module):
            load(module)
            exec(PATCH, module.__dict__)
        spec.loader.exec_module = changed
        return spec

sys.meta_path.insert(0, Finder())
"""


def command(service: Service, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*POOLSHIFT, "migration", *arguments, "--url", service.url],
        check=False,
        capture_output=True,
        text=True,
        timeout=900,
    )


def validated(service: Service, inputs: Path, rate: int = 10) -> dict[str, Any]:
    """Validates, and returns the states by item."""
    done = command(service, "validate", "--json", "--inputs", str(inputs), "--rate", str(rate))
    assert done.stdout, done.stderr
    states = {one["item"]: (one["state"], one["evidence"]) for one in json.loads(done.stdout)["items"]}
    assert done.returncode == (1 if any(state == "not_met" for state, _ in states.values()) else 0)
    return states


def not_met(states: dict[str, Any]) -> set[str]:
    return {item for item, (state, _) in states.items() if state == "not_met"}


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    path = tmp_path / "inputs.jsonl"
    path.write_text('{"program_id": "mine", "inputs": {"nonce": "a"}}\n')
    return path


def create_own(service: Service) -> None:
    service.create("poolshift.validation:echo", {"nonce": "string"}, id="mine", instructions="Returns its text.")


def broken_python(folder: Path, patch: str) -> Path:
    """The interpreter of an environment in which some of the validation's programs are others."""
    python = virtual_environment(folder, sys.executable, "msgspec>=0.22")
    packages = next((folder / "lib").glob("python*")) / "site-packages"
    (packages / "broken.py").write_text(f"PATCH = {patch!r}\n{HOOK}")
    (packages / "broken.pth").write_text("import broken\n")
    return python


@pytest.mark.judge
@pytest.mark.parametrize(
    ("patch", "item"),
    [(LEAK, "memory"), (NO_ERROR, "errors"), (CROSSING, "sessions"), (STEPS, "tests")],
    ids=["leak", "error", "crossing", "steps"],
)
def test_a_broken_v2_is_named(start_service: StartService, tmp_path: Path, inputs: Path, patch: str, item: str) -> None:
    """V2's Python has other programs: the one item that this breaks is not met, and no other."""
    service = start_service(ENGINE="session_pool_v2", V2_PYTHON=broken_python(tmp_path / "broken", patch))
    create_own(service)
    states = validated(service, inputs)
    assert not_met(states) == {item}, states


@pytest.mark.judge
def test_an_equal_pair_is_met(start_service: StartService, inputs: Path) -> None:
    """Everything that can be known is met, it is stored, and nothing organic was counted."""
    service = start_service()
    create_own(service)
    before = service.client.get("/programs").json()["items"]
    states = validated(service, inputs)
    assert not_met(states) == set(), states
    for item in ("tests", "concurrency", "sessions", "errors", "load", "documentation"):
        assert states[item][0] == "met", states[item]
    assert service.client.get("/programs").json()["items"][0]["execution_count"] == before[0]["execution_count"] == 0
    assert service.client.get("/sessions").json()["items"] == []
    assert service.metric("poolshift_routing_decisions_total") == 0
    shown = service.client.get("/migration").json()
    assert shown["phase"] == "validation"
    assert shown["validation"]["is_current"] is True
    assert command(service, "tick", "documentation", "--note", "runbook 7").returncode == 0
    ticked = {one["item"]: one for one in service.client.get("/migration").json()["checklist"]}["documentation"]
    assert ticked["state"] == "met"
    assert "runbook 7" in ticked["evidence"]
    assert "<svg" in command(service, "report", "--format", "html").stdout
    assert "testsuite" in command(service, "report", "--format", "junit").stdout


@pytest.mark.judge
def test_a_serial_v2_is_named(start_service: StartService, inputs: Path) -> None:
    """V2 has the engine that runs one call at a time: concurrency is not met, and errors and sessions are."""
    service = start_service(V2_ENGINE="session_pool")
    create_own(service)
    states = validated(service, inputs)
    assert not_met(states) == {"concurrency"}, states


@pytest.mark.judge
def test_a_program_without_a_description_is_named(start_service: StartService, inputs: Path) -> None:
    """Documentation alone is not met."""
    service = start_service()
    service.create("poolshift.validation:echo", {"nonce": "string"}, id="mine")
    states = validated(service, inputs)
    assert not_met(states) == {"documentation"}, states
    assert "mine" in states["documentation"][1]
