"""Pools on a real Ray cluster of several raylets: the tests of `inside_*.py`, each file in a network of its own."""

import os
import subprocess
import sys

import pytest

from tests.ray.network import ALONE
from tests.support.service import ROOT

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timing,
    pytest.mark.skipif(os.geteuid() != 0, reason="a network of its own takes root: make test-ray"),
]

LIMIT_S = 600.0


def run_inside(file: str, **environment: str) -> None:
    """Runs the tests of a file where nobody reaches Ray. Skips them on a machine that grants no network of its own."""
    granted = subprocess.run([*ALONE, "true"], check=False, capture_output=True, text=True)
    if granted.returncode:
        pytest.skip(f"no network of its own: {granted.stderr.strip()}")
    command = [*ALONE, sys.executable, "-m", "tests.ray.network", sys.executable, "-m", "pytest"]
    options = ["-q", "-x", "-p", "no:cacheprovider", "-p", "no:schemathesis", "-o", "filterwarnings=default"]
    done = subprocess.run(
        [*command, *options, f"tests/ray/{file}"],
        cwd=ROOT,
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0", **environment},
        timeout=LIMIT_S,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-20_000:]}\n{done.stderr[-5_000:]}"


def test_the_short_form() -> None:
    """Calls, kills, lost nodes and services, on two nodes."""
    run_inside("inside_short.py")


@pytest.mark.skipif("RAY_SECONDS" not in os.environ, reason="takes minutes: make test-ray")
def test_the_long_form() -> None:
    """Load amid faults for RAY_SECONDS, and the end of the head."""
    run_inside("inside_long.py")
