"""Fixtures of the tests that need no Ray."""

import subprocess
from collections.abc import Iterator

import pytest

from tests.ray.agents import running_agent


@pytest.fixture
def certificates() -> dict[str, str]:
    """Ray's variables for TLS: none, unless a module has others."""
    return {}


@pytest.fixture
def agent(certificates: dict[str, str]) -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """An agent's process and its port."""
    with running_agent(certificates) as agent:
        yield agent
