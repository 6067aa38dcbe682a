"""The examples of migrations: each ends as its page says, by the judge's word and with the right program named."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.service import ROOT

RUN = ROOT / "examples" / "migrations" / "run.py"

pytestmark = pytest.mark.skipif(not RUN.exists(), reason="needs the sources beside the tests")


def ramp(name: str, work: Path) -> str:
    """Runs an example to its end, and returns what it printed."""
    command = [sys.executable, str(RUN), name, "--work", str(work)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=600)
    if "has no Python" in done.stderr or "pip install" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_new_code_with_a_bug(tmp_path: Path) -> None:
    """New code that raises for one input in fifty: rolled back, and the program is named."""
    said = ramp("code", tmp_path)
    assert "The ramp ended rolled_back" in said, said
    assert "of the program shipping" in said, said
    assert "ZeroDivisionError" in said, said


def test_a_library_that_changes_an_answer(tmp_path: Path) -> None:
    """Two virtual environments: rolled back, and the program is named."""
    said = ramp("library", tmp_path)
    assert "packaging 21.3 → 25.0" in said, said
    assert "The ramp ended rolled_back" in said, said
    assert "of the program newest" in said, said
    assert "InvalidVersion" in said, said


@pytest.mark.judge
def test_many_calls_on_one_worker(tmp_path: Path) -> None:
    """One worker of the async engine for eight of the other: promoted on evidence."""
    said = ramp("engine", tmp_path)
    assert "V2 changes: engine session_pool_v2 → async_pool" in said, said
    assert "The ramp ended promoted" in said, said


@pytest.mark.judge
def test_another_python(tmp_path: Path) -> None:
    """The same programs on a newer interpreter: promoted on evidence."""
    said = ramp("python", tmp_path)
    assert "V2 changes: python 3.11" in said, said
    assert "The ramp ended promoted" in said, said
