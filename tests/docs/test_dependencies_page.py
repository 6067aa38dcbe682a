"""docs/dependencies.md: a row for each direct dependency, and the versions that are locked."""

import json
import re
import tomllib
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.pages import codes, page, section, table
from tests.support.service import ROOT
from tests.support.tools import TABLE
from tools.vendor import VENDORED, read_manifest

PAGE = page("dependencies.md")
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = {name: needed for name, needed in PROJECT["optional-dependencies"].items() if name != "dev"}
RELEASED = ("within half a year", "within a year", "over a year ago")


def rows(heading: str) -> dict[str, dict[str, str]]:
    """The rows under a heading, by package."""
    found = table(section(PAGE, heading), "package")
    by_name = {codes(row["package"])[0]: row for row in found}
    assert len(by_name) == len(found)
    return by_name


def names(requirements: list[str]) -> set[str]:
    """The packages of a list in pyproject.toml, but for those of this repository."""
    found = {canonicalize_name(Requirement(one).name) for one in requirements}
    return {str(name) for name in found} - {PROJECT["name"], "poolshift"}


@pytest.mark.parametrize(
    ("heading", "requirements"),
    [
        ("## Runtime", PROJECT["dependencies"]),
        ("## Extras", [one for needed in EXTRAS.values() for one in needed]),
        ("## Development", PROJECT["optional-dependencies"]["dev"]),
    ],
)
def test_every_direct_dependency_has_its_reason(heading: str, requirements: list[str]) -> None:
    """And no other has a row; each says what for, why not another, and how old it is."""
    found = rows(heading)
    assert found.keys() == names(requirements)
    for name, row in found.items():
        assert row["what for"], name
        assert row["rather than"], name
        assert row["newest release"] in RELEASED, name


@pytest.mark.parametrize(
    ("heading", "locks"),
    [
        ("## In the image alone", ["image", "local-model"]),
        ("## Package tools", ["dist"]),
        ("## Site tools", ["site"]),
        ("## Ship tools", ["ship", "ship-binaries"]),
    ],
)
def test_every_tool_of_a_lock_has_its_reason(heading: str, locks: list[str]) -> None:
    """Tools that are asked for, in the version that is locked, and no other."""
    lines = [line for lock in locks for line in (ROOT / f"requirements/{lock}.in").read_text().splitlines()]
    asked = names([line.partition("#")[0] for line in lines])
    locked = {name: version for lock in locks for name, version in versions(f"{lock}.txt").items()}
    text = section(PAGE, heading).partition("From npm")[0]
    found = {codes(row["package"])[0]: row for row in table(text, "package")}
    assert {name: row["locked"] for name, row in found.items()} == {name: locked[name] for name in asked}
    for name, row in found.items():
        assert row["what for"], name
        assert row["newest release"] in RELEASED, name


def test_every_package_from_npm_is_there() -> None:
    """In its version, with its folder."""
    text = section(PAGE, "## Ship tools").partition("From npm")[2].partition("From Debian")[0]
    found = {(codes(row["folder"])[0], codes(row["package"])[0]): row["locked"] for row in table(text, "package")}
    folders = [path.parent for path in (ROOT / "tests").glob("*/*/package.json")]
    assert found == {
        (str(folder.relative_to(ROOT)), name): version
        for folder in folders
        for name, version in json.loads((folder / "package.json").read_text())["dependencies"].items()
    }


def test_every_vendored_package_has_its_reason() -> None:
    """In its version, with its licence, and no other."""
    found = rows("## In the pages")
    packages = read_manifest(VENDORED)
    assert {name: (row["version"], row["licence"]) for name, row in found.items()} == {
        name: (package.version, package.licence) for name, package in packages.items()
    }
    for name, row in found.items():
        assert row["what for"], name
        assert row["rather than"], name
        assert row["newest release"] in RELEASED, name


def test_every_package_from_debian_is_there() -> None:
    """The page has the packages that `make ship-tools` and `make test` install."""
    text = section(PAGE, "## Ship tools").partition("From Debian")[2]
    found = {codes(row["package"])[0] for row in table(text, "package")}
    tools = re.findall(r"\[\w+\]=([\w-]+)", (ROOT / "tests/ship/tools.sh").read_text())
    rows = [line for line in TABLE.read_text().splitlines() if not line.startswith("#")]
    assert found == {*tools, *(package for row in rows for package in row.split()[2:])}


def test_every_extra_is_named() -> None:
    """With what it brings."""
    for extra, needed in EXTRAS.items():
        for name in names(needed):
            assert f"extra `{extra}`" in rows("## Extras")[name]["what for"]


def test_the_locked_versions_are_in_the_locks() -> None:
    """A lock that is renewed takes the page along: then the check is done anew."""
    locked = {**versions("bench.txt"), **versions("dev.txt")}
    for heading in ("## Runtime", "## Extras", "## Development"):
        for name, row in rows(heading).items():
            assert row["locked"] == locked[name], name


def test_a_version_fits_its_bounds() -> None:
    """Every version of the page is within the bounds of pyproject.toml."""
    everything = {**rows("## Runtime"), **rows("## Extras"), **rows("## Development")}
    for one in [
        *PROJECT["dependencies"],
        *(item for some in PROJECT["optional-dependencies"].values() for item in some),
    ]:
        requirement = Requirement(one)
        if (name := canonicalize_name(requirement.name)) in everything:
            assert requirement.specifier.contains(everything[name]["locked"]), one


@pytest.mark.parametrize("lock", ["bootstrap.txt", "base.txt", "dev.txt", "bench.txt"])
def test_a_lock_is_as_the_policy_says(lock: str) -> None:
    """Everything is pinned and has hashes; no address is in it."""
    text = (ROOT / "requirements" / lock).read_text()
    pinned = re.split(r"^(?=\S)", text, flags=re.MULTILINE)
    for entry in filter(None, pinned):
        if entry.startswith("#"):
            continue
        assert re.match(r"[a-z0-9._-]+==\S+", entry), entry
        assert "--hash=sha256:" in entry, entry
    assert "://" not in text
    assert "--index" not in text


def test_every_lock_is_in_the_policy() -> None:
    """With what it is for."""
    for path in (ROOT / "requirements").glob("*.txt"):
        assert f"`{path.name}`" in section(PAGE, "## Policy"), path.name


def versions(lock: str) -> dict[str, str]:
    """Returns the versions that a lock pins, by package."""
    text = (ROOT / "requirements" / lock).read_text()
    return dict(re.findall(r"^([a-z0-9._-]+)==([^\s;\\]+)", text, re.MULTILINE))
