"""The OpenAPI document as other tools see it: validators take it, and clients that are made of it work."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.groups import CLIENTS
from tests.support.documented import document
from tests.support.service import ROOT, Service

pytestmark = [pytest.mark.clients, pytest.mark.thorough]

HERE = Path(__file__).parent
BIN = CLIENTS.parent / "venv/bin"
NODE_MODULES = CLIENTS.parent / "node_modules"
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{ROOT / '.cache/ship/bin'}:{NODE_MODULES / '.bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
}
EXPECTED = {
    "revision": 1,
    "code": "program_not_found",
    "outputs": {"result": ["flag", "rolls", "everything", "back", "enough"]},
}


def run(*command: str | Path, cwd: Path) -> str:
    """Runs a tool; returns all that it prints."""
    ran = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stdout
    return ran.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the document and, as npm has installed them, the tools of TypeScript."""
    folder = tmp_path_factory.mktemp("clients")
    (folder / "openapi.json").write_text(json.dumps(document()))
    for name in ("call.ts", "tsconfig.json", "package.json", "spectral.yaml"):
        shutil.copy(HERE / "typescript" / name, folder / name)
    (folder / "node_modules").symlink_to(NODE_MODULES)
    return folder


def test_a_validator_takes_the_document(folder: Path) -> None:
    """openapi-spec-validator, by the specification's own schema."""
    assert "OK" in run(BIN / "openapi-spec-validator", "openapi.json", cwd=folder)


def test_a_linter_finds_nothing(folder: Path) -> None:
    """Spectral with all its rules for OpenAPI, not even a hint."""
    said = run("spectral", "lint", "--ruleset", "spectral.yaml", "--fail-severity=hint", "openapi.json", cwd=folder)
    assert "No results" in said


@pytest.fixture(scope="module")
def client_of_python(folder: Path) -> Path:
    """A client that is made without a warning, and strictly typed but for the generator's own module."""
    (folder / "config.yaml").write_text("content_type_overrides:\n  application/x-ndjson: text/plain\npost_hooks: []\n")
    made = run(
        *(BIN / "openapi-python-client", "generate", "--path", "openapi.json", "--config", "config.yaml"),
        *("--meta", "none", "--output-path", "generated"),
        cwd=folder,
    )
    assert "WARNING" not in made.upper()
    shutil.copy(HERE / "call.py.txt", folder / "call.py")
    (folder / "mypy.ini").write_text("[mypy]\nstrict = true\n[mypy-generated.client]\nignore_errors = true\n")
    run("mypy", "--config-file=mypy.ini", f"--python-executable={BIN / 'python'}", "call.py", cwd=folder)
    return folder


def test_a_client_of_python_calls_and_is_refused(client_of_python: Path, shared_service: Service, version: str) -> None:
    """On either version, with the problem of an error."""
    said = json.loads(run(BIN / "python", "call.py", shared_service.url, cwd=client_of_python))
    assert said == {**EXPECTED, "version": version}


@pytest.fixture(scope="module")
def client_of_typescript(folder: Path) -> Path:
    """A client that is strictly typed."""
    run("openapi-typescript", "openapi.json", "--output", "schema.d.ts", cwd=folder)
    run("tsc", "--project", "tsconfig.json", cwd=folder)
    return folder


def test_a_client_of_typescript_calls_and_is_refused(
    client_of_typescript: Path, shared_service: Service, version: str
) -> None:
    """On either version, with the problem of each error."""
    said = json.loads(run("node", "built/call.js", shared_service.url, cwd=client_of_typescript))
    assert said == {**EXPECTED, "version": version}
