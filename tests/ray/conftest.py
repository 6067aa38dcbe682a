"""Fixtures of the tests that need no Ray."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ray.agents import issue_certificates, running_agent


@pytest.fixture
def certificates() -> dict[str, str]:
    """Ray's variables for TLS: none, unless a module has others."""
    return {}


@pytest.fixture
def foreign(tmp_path: Path) -> dict[str, str]:
    """Variables with certificates of another authority."""
    folder = tmp_path / "foreign"
    folder.mkdir()
    return issue_certificates(folder)


@pytest.fixture
def agent(certificates: dict[str, str]) -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """An agent's process and its port."""
    with running_agent(certificates) as agent:
        yield agent
