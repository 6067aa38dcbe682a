"""Two distributions come from this repository: the service, and the part of it that a user's process imports."""

import tomllib
from importlib.metadata import requires, version

from tests.support.service import ROOT


def test_the_service_wants_its_own_version_of_the_worker() -> None:
    """Both are released together, so that a pip install of the service never mixes two versions."""
    released = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert version("poolshift-service") == version("poolshift") == released
    assert f"poolshift=={released}" in (requires("poolshift-service") or [])


def test_the_worker_wants_msgspec_alone() -> None:
    """A user's environment gets nothing else along with it, unless it asks for the group `lm`."""
    wanted = [requirement for requirement in requires("poolshift") or [] if "extra ==" not in requirement]
    assert [requirement.partition(">")[0] for requirement in wanted] == ["msgspec"]


def test_the_client_wants_httpx_and_msgspec_alone() -> None:
    """The group `client` brings one package more than a worker needs."""
    wanted = [requirement for requirement in requires("poolshift") or [] if "extra == 'client'" in requirement]
    assert [requirement.partition(">")[0] for requirement in wanted] == ["httpx"]
