"""One service on the tests' own endpoint, and one on the small model, for all tests here."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.lm.endpoint import Endpoint, running_endpoint
from tests.support.service import PROGRAM_MODULES, Service, running_service

EVERYONES_KEY = "sk-everyones-own"
SMALL = {"V1_POOL_SIZE": 1, "V2_POOL_SIZE": 1}
"""For a service that is started for one test."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts all tests of this folder into the group, but for those that are about its absence."""
    for item in items:
        if item.path.parent.name == "lm" and item.path.stem != "test_without_the_group":
            item.add_marker("lm")


@pytest.fixture(scope="session")
def endpoint() -> Iterator[Endpoint]:
    with running_endpoint() as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def lm_service(endpoint: Endpoint, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Everyone's LM is the endpoint that answers, under the name `everyone`; four workers on each version."""
    settings = {
        "LM_MODEL": "openai/test",
        "LM_API_BASE": endpoint.base("answers", "everyone"),
        "LM_API_KEY": EVERYONES_KEY,
        "V1_POOL_SIZE": 4,
        "V2_POOL_SIZE": 4,
        "PROGRAM_MODULES": f"{PROGRAM_MODULES},tests.lm.modules",
    }
    with running_service(tmp_path_factory.mktemp("lm"), **settings) as service:
        yield service


@pytest.fixture(scope="session")
def local_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running_service(tmp_path_factory.mktemp("local-lm"), LM_MODEL="local") as service:
        yield service


def field(name: str, kind: str = "string", **more: Any) -> dict[str, Any]:
    return {"name": name, "type": kind, **more}


def create(
    service: Service,
    inputs: list[dict[str, Any]],
    outputs: list[dict[str, Any]],
    program_type: str = "predict",
    **more: Any,
) -> str:
    """A DSPy program's id."""
    signature = {"inputs": inputs, "outputs": outputs, **more.pop("signature", {})}
    answer = service.client.post("/programs", json={"program_type": program_type, "signature": signature, **more})
    assert answer.status_code == 201, answer.text
    program_id: str = answer.json()["id"]
    return program_id


def on(version: str) -> dict[str, str]:
    """The headers of a call that is forced to `version`."""
    return {"x-pool-version": version}
