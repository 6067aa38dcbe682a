"""ARCHITECTURE.md and CONTRIBUTING.md: every path that they name is there, and every room has its row."""

import re
import subprocess

import pytest

from tests.support.pages import codes, section, table
from tests.support.service import ROOT

PAGES = ["ARCHITECTURE.md", "CONTRIBUTING.md"]
OWN_ENVIRONMENT = {".venv"}
"""Paths that make creates."""


def tracked() -> set[str]:
    """Every file of the repository, and every folder with a slash behind it."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    return {*files, *(file[: match.end()] for file in files for match in re.finditer("/", file))}


@pytest.mark.parametrize("name", PAGES)
def test_every_path_that_a_page_names_is_there(name: str) -> None:
    """Paths in backticks or links, from the root."""
    text = (ROOT / name).read_text()
    named = [*re.findall(r"`([\w.]*[\w-]+/[\w./-]*)`", text), *re.findall(r"\]\(([^):#]+)\)", text)]
    named += re.findall(r"`([\w.-]+\.(?:md|toml|py|mk))`", text)
    paths = tracked()
    assert len(named) > 5
    for path in set(named) - OWN_ENVIRONMENT:
        assert path in paths or f"{path}/" in paths, path


def test_every_room_has_its_row() -> None:
    """Each folder at the root, but for those that only hold documents, is in the table of rooms."""
    rows = table(section((ROOT / "ARCHITECTURE.md").read_text(), "## The rooms"), "room")
    named = {code.split("/")[0] for row in rows for code in codes(row["room"])}
    folders = {path.split("/")[0] for path in tracked() if "/" in path and not path.startswith(".")}
    assert named == folders - {"docs", "examples"}


def test_a_call_goes_through_the_files_in_order() -> None:
    """Each step of the list names a module of the rooms that a call crosses, from the socket to the worker."""
    text = section((ROOT / "ARCHITECTURE.md").read_text(), "## One call, file by file")
    steps = re.findall(r"^\d+\. .*?`(\w+)/", text, re.MULTILINE)
    order = ["app", "routing", "pools", "poolshift"]
    assert [room for room in order if room in steps] == order
    assert steps[:4] == ["app"] * 4
