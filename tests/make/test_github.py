"""The files for GitHub: workflows run commands that there are, and forms are as GitHub wants them."""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.make.test_targets import TARGETS
from tests.support.service import ROOT

GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").iterdir())
FORMS = sorted((GITHUB / "ISSUE_TEMPLATE").glob("*.yaml"))


def steps(path: Path) -> list[dict[str, Any]]:
    """The steps of all jobs of a workflow."""
    jobs = yaml.safe_load(path.read_text())["jobs"].values()
    return [step for job in jobs for step in job["steps"]]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_runs_what_the_repository_has(path: Path) -> None:
    """Targets of make, and scripts that can be run: nothing in it is tied to GitHub."""
    commands = [step["run"].split() for step in steps(path) if "run" in step]
    for target in {word for name, *words in commands if name == "make" for word in words}:
        assert target in TARGETS
    scripts = {name for name, *_ in commands if "/" in name}
    assert all(os.access(ROOT / name, os.X_OK) for name in scripts)
    assert ".ci/run" in scripts


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_packages_are_built_for_each_python(path: Path) -> None:
    """The Pythons that the project supports, as `make/pythons.sh` has them."""
    (installed,) = (step["with"]["python-version"] for step in steps(path) if "setup-python" in step.get("uses", ""))
    supported = (ROOT / "make/pythons.sh").read_text().partition("for version in ")[2].partition(";")[0]
    assert sorted(installed.split()) == supported.split()


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_a_form_has_what_github_wants(path: Path) -> None:
    """A name, a description, and fields with a label, each with an id of its own."""
    form = yaml.safe_load(path.read_text())
    assert form["name"]
    assert form["description"]
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert all(field["attributes"]["label"] for field in fields)
    assert len({field["id"] for field in fields}) == len(fields)
