"""Fixtures of the tests that need no Ray."""

import subprocess
from collections.abc import Iterator

import pytest

from tests.ray.agents import running_agent


@pytest.fixture
def agent() -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """An agent's process and its port."""
    with running_agent() as agent:
        yield agent
