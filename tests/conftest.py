"""Fixtures for all tests. Service tests run on both versions, unless POOL_VERSION names one."""

import os
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests.support import garbage  # first, for the imports after it
from tests.support.service import Service, running_service

pytest_plugins = ["tests.groups"]

# Hypothesis's own profile for CI: each run has the same examples, and time decides nothing. `make nightly` has others.
hypothesis.settings.load_profile("ci")
hypothesis.settings.register_profile("fast", hypothesis.settings.get_profile("ci"), max_examples=25)
"""The examples of a property in `make test-fast`, unless it sets their number. `make test` has Hypothesis's own 100."""

VERSIONS = [os.environ["POOL_VERSION"]] if os.environ.get("POOL_VERSION") else ["v1", "v2"]

StartService = Callable[..., Service]


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collects garbage again once the tests are collected."""
    try:
        return (yield)
    finally:
        garbage.resume_without_what_is_there()


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=VERSIONS, scope="session")
def version(request: pytest.FixtureRequest) -> str:
    """The version that a test is about."""
    version: str = request.param
    return version


@pytest.fixture(scope="session")
def shared_service(version: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service pinned to `version` for all tests that leave it as it was."""
    with running_service(tmp_path_factory.mktemp(f"service-{version}"), POOL_VERSION=version) as service:
        yield service


@pytest.fixture
def start_service(tmp_path: Path) -> Iterator[StartService]:
    """Starts services of the test's own, each in a folder of its own; they end with the test."""
    with ExitStack() as stack:
        count = 0

        def start(**settings: Any) -> Service:
            nonlocal count
            count += 1
            directory = tmp_path / f"service-{count}"
            directory.mkdir()
            return stack.enter_context(running_service(directory, **settings))

        yield start
