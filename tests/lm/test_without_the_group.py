"""A service without DSPy: every use of it is refused with the reason, and all else works."""

import subprocess
from pathlib import Path

import pytest

from tests.conftest import StartService
from tests.lm.conftest import SMALL, field
from tests.service.test_errors import problem
from tests.support.service import POOLSHIFT, ROOT, Service


@pytest.fixture
def without_dspy(tmp_path: Path) -> str:
    """A PYTHONPATH on which `import dspy` finds nothing (sys.modules: None stops the import)."""
    (tmp_path / "sitecustomize.py").write_text('import sys\nsys.modules["dspy"] = None\n')
    return f"{tmp_path}:{ROOT}"


def test_creating_a_dspy_program_names_what_to_install(start_service: StartService, without_dspy: str) -> None:
    """A python program runs as ever."""
    service = start_service(command=POOLSHIFT, PYTHONPATH=without_dspy, **SMALL)
    signature = {"inputs": [field("text")], "outputs": [field("topic")]}
    answer = service.client.post("/programs", json={"program_type": "predict", "signature": signature})
    detail = problem(answer, 422, "invalid_request")["detail"]
    assert "body.program_type" in detail
    assert "python -m pip install 'dspy>=" in detail
    assert service.execute(service.create("echo", {"nonce": "string"}), inputs={"nonce": "a"}).is_success


@pytest.mark.parametrize("model", ["local", "openai/x"])
def test_an_lm_without_the_group_ends_the_start_with_one_line(tmp_path: Path, without_dspy: str, model: str) -> None:
    """The line names the variable and the missing package."""
    environment = {"PYTHONPATH": without_dspy, "LM_MODEL": model, "PORT": str(Service(tmp_path).port)}
    ended = subprocess.run(
        [*POOLSHIFT, "serve"], check=False, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode != 0
    [line] = ended.stderr.strip().splitlines()
    assert f"LM_MODEL={model}" in line
    assert "dspy" in line
