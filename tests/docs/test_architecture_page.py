"""ARCHITECTURE.md and CONTRIBUTING.md: every path that they name is there, and every folder has its row."""

import ast
import re
import subprocess
import tomllib

import pytest

from app.openapi.document import operations
from tests.support.documented import document
from tests.support.pages import codes, section, table
from tests.support.service import ROOT
from tests.support.tools import tool

PAGES = ["ARCHITECTURE.md", "CONTRIBUTING.md"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
WORKER = tomllib.loads((ROOT / "packaging/poolshift/pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"][
    "wheel"
]["hooks"]["custom"]
"""The packages and compiled modules of the worker's distribution."""
OWN_ENVIRONMENT = {".venv"}
"""Paths that make creates."""


def tracked() -> set[str]:
    """Every file of the repository, and every folder with a slash behind it."""
    command = [tool("git"), "-c", f"safe.directory={ROOT}", "ls-files", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    return {*files, *(file[: match.end()] for file in files for match in re.finditer("/", file))}


@pytest.mark.git
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


def test_each_recipe_is_linked() -> None:
    """ARCHITECTURE.md leads to every recipe of CONTRIBUTING.md, in their order."""
    headings = re.findall(r"^### (Adding .*)$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    anchors = [heading.lower().replace(",", "").replace(" ", "-") for heading in headings]
    assert re.findall(r"\(CONTRIBUTING\.md#([\w-]+)\)", (ROOT / "ARCHITECTURE.md").read_text()) == anchors


def folder_rows() -> list[dict[str, str]]:
    """The rows of the table of folders."""
    return table(section((ROOT / "ARCHITECTURE.md").read_text(), "## The folders"), "folder")


@pytest.mark.git
def test_every_folder_has_its_row() -> None:
    """Each folder at the root, but for those that only hold documents, is in the table of folders."""
    named = {code.split("/")[0] for row in folder_rows() for code in codes(row["folder"])}
    folders = {path.split("/")[0] for path in tracked() if "/" in path and not path.startswith(".")}
    assert named == folders - {"docs", "examples"}


@pytest.mark.git
def test_every_package_of_the_service_has_its_row() -> None:
    """Each package that import-linter knows has a row for each package in it, whatever its depth."""
    named = {code for row in folder_rows() for code in codes(row["folder"])}
    roots = set(PROJECT["importlinter"]["root_packages"])
    packages = {path.removesuffix("__init__.py") for path in tracked() if path.endswith("/__init__.py")}
    packages.add("poolshift/launcher/")  # a folder of scripts
    assert {one for one in packages if one.split("/")[0] in roots} <= named | {"poolshift/"}


def packages_imported(folder: str) -> set[str]:
    """The folders at the root, other than its own, that the modules of a folder import."""
    names = set()
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                names.add(str(node.module))
            elif isinstance(node, ast.Import):
                names |= {one.name for one in node.names}
    ours = {path.split("/")[0] for path in tracked() if path.endswith("/__init__.py")}
    return ({name.split(".")[0] for name in names} & ours) - {folder}


@pytest.mark.git
def test_the_imports_of_a_folder_are_those_of_the_code() -> None:
    """The column has exactly what the modules of each package import, for every package that import-linter knows."""
    rows = [row for row in folder_rows() if row["imports"]]
    told = {codes(row["folder"])[0].split("/")[0]: set(codes(row["imports"])) for row in rows}
    assert told == {name: packages_imported(name) for name in PROJECT["importlinter"]["root_packages"]}


def test_the_files_of_a_call_are_compiled_as_the_page_says() -> None:
    """All modules of the steps are compiled, except those that the sentence below the steps excepts.

    Those of the worker are in a distribution of their own, whose project file lists what is compiled.
    """
    text = section((ROOT / "ARCHITECTURE.md").read_text(), "## One call, file by file")
    steps, below = text.split("The image has the service's files of these steps compiled", maxsplit=1)
    compiled = PROJECT["hatch"]["build"]["targets"]["wheel"]["hooks"]["custom"]["modules"]
    named = set(re.findall(r"`([\w/]+)\.py`", steps))
    ours = {one for one in named if not one.startswith("poolshift/worker/")}
    excepted = {"app/execute/uvicorn_adapter", "app/execute/large_body", "pools/process/json_check"}
    assert {one for one in ours if one.replace("/", ".") not in compiled} == excepted
    assert set(re.findall(r"`([\w/]+)\.py`", below.partition("`pyproject.toml`")[0])) == excepted
    assert set(re.findall(r"`(poolshift\.worker\.[\w.]+)`", below)) == set(WORKER["standalone"])


def test_a_call_goes_through_the_files_in_order() -> None:
    """Each step of the list names a module of the folders that a call crosses, from the socket to the worker."""
    text = section((ROOT / "ARCHITECTURE.md").read_text(), "## One call, file by file")
    steps = re.findall(r"^\d+\. .*?`(\w+)/", text, re.MULTILINE)
    order = ["app", "routing", "pools", "poolshift"]
    assert [folder for folder in order if folder in steps] == order
    assert steps[:4] == ["app"] * 4


IN_OPENAPI = {"x-problems", "x-response-headers"}
"""Members of the OpenAPI document, which look like headers."""
DOCUMENT = document()
BY_LIBRARIES = {"Allow", "Connection", "Date"}
"""Headers that no file of ours names: a library that the table names reads or writes them."""


def header_rows() -> list[tuple[list[str], list[str]]]:
    """The headers and the files of each row of both tables."""
    text = section((ROOT / "ARCHITECTURE.md").read_text(), "## Headers")
    rows = []
    for column, who in (("header of a request", "who reads it"), ("header of an answer", "who writes it")):
        for row in table(text, column):
            headers = [code for code in codes(row[column]) if not code.isupper()]
            rows.append((headers, [code for code in codes(row[who]) if code.endswith(".py")]))
    return rows


def names(path: str, header: str) -> bool:
    """Tells if a file has the header's name, as text, as bytes or as the name of a parameter."""
    pattern = header.replace("-", "[-_ ]")
    return re.search(pattern, (ROOT / path).read_text(), re.IGNORECASE) is not None


def test_a_header_is_named_in_its_files() -> None:
    """Each file of a row has one of the row's headers, and each header is in one of the row's files."""
    for headers, files in header_rows():
        for path in files:
            assert any(names(path, header) for header in headers), (path, headers)
        for header in set(headers) - BY_LIBRARIES:
            assert any(names(path, header) for path in files), (header, files)


def test_every_header_of_our_own_has_its_row() -> None:
    """All that begin with `X-`, and those that the API's document describes."""
    listed = {header.lower() for headers, _ in header_rows() for header in headers}
    found = set()
    for path in (ROOT / "app").rglob("*.py"):
        found |= {name.lower() for name in re.findall(r'"(x-[a-z-]+)"', path.read_text(), re.IGNORECASE)}
    for _, operation in operations(DOCUMENT):
        found |= {one["name"].lower() for one in operation.get("parameters", ()) if one["in"] == "header"}
        for answer in operation["responses"].values():
            found |= {name.lower() for name in answer.get("headers", ())}
    assert len(found) > 10
    assert found - IN_OPENAPI <= listed
