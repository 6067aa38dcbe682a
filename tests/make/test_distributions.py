"""Two distributions come from this repository: the service, and the part of it that a user's process imports."""

import re
import tomllib
from importlib.metadata import requires, version
from pathlib import Path

import pytest

from poolshift.worker.loading import DSPY_REQUIREMENT
from poolshift.worker.types import schemas
from tests.support.service import ROOT

PROJECTS = {"./packaging/poolshift": ROOT / "packaging" / "poolshift", ".": ROOT}
"""The distributions, as a `pip install` in a checkout names them."""
EXTRAS = {
    place: tomllib.loads((folder / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for place, folder in PROJECTS.items()
}


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


@pytest.mark.parametrize("page", [*ROOT.glob("docs/**/*.md"), ROOT / "README.md"], ids=lambda page: page.stem)
def test_what_a_page_installs_is_there(page: Path) -> None:
    """No index has our distributions: a page names files, an address, or a folder, and an extra that it has."""
    for command in re.findall(r"pip install ([^`#\n]+)", page.read_text()):
        words = [word.strip("'\"") for word in command.split()]
        installed = [word for word in words if re.match(r"poolshift\b", word)]
        is_from_files = "--find-links dist/" in command
        assert len(installed) == is_from_files + command.count(" @ git+$REPOSITORY"), command
        for place, _, extra in (word.rstrip("]").partition("[") for word in words if word.startswith(".")):
            assert place in EXTRAS, command
            assert not extra or extra in EXTRAS[place], command


def test_both_have_the_licence() -> None:
    """The files are the same."""
    assert (PROJECTS["./packaging/poolshift"] / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()


def test_what_a_message_installs_is_what_the_extra_brings() -> None:
    """A program or a client that lacks a package names it with the bounds that the packaging has."""
    extras = EXTRAS["./packaging/poolshift"]
    assert extras["lm"] == [DSPY_REQUIREMENT]
    assert f"python -m pip install '{extras['schema'][0]}'" == schemas.INSTALL
    assert f"pip install '{extras['client'][0]}'" in (ROOT / "poolshift" / "client" / "wire.py").read_text()
