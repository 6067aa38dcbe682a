"""The packages of `make dist`, as a user installs them: in environments that have nothing else, in an empty folder."""

import json
import os
import re
import shutil
import sys
import sysconfig
from collections.abc import Callable
from hashlib import sha256
from importlib.metadata import distributions
from pathlib import Path
from urllib.parse import unquote
from zipfile import ZipFile

import pytest

from tests.ship.tools import run
from tests.support.service import ROOT, running_service
from tools.vendor import VENDORED, read_manifest

pytestmark = pytest.mark.ship

UV = ROOT / ".venv/bin/uv"
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
COMPILED = f"cp{VERSION.replace('.', '')}-manylinux"
"""In the names of wheels that are compiled for this Python."""

Installer = Callable[..., Path]


def build(folder: Path) -> Path:
    """The packages for this Python, built into `folder`, with C that GCC makes in half the time of a release's."""
    run(
        "make", "dist", f"DIST={folder}", f"PYTHONS={VERSION}", cwd=ROOT, env={**os.environ, "POOLSHIFT_OPT_LEVEL": "1"}
    )
    return folder


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The versions of the lock as bounds, so that a package's new release fails no test of ours."""
    lock = (ROOT / "requirements/base.txt").read_text()
    path = tmp_path_factory.mktemp("locked") / "constraints.txt"
    path.write_text("\n".join(re.findall(r"^[^\s#][^\\]*", lock, re.MULTILINE)))
    return path


def with_pip(folder: Path, *arguments: str | Path) -> Path:
    """An empty environment, into which Python's own installer puts `arguments`."""
    run(sys.executable, "-m", "venv", folder)
    run(folder / "bin/pip", "install", "--quiet", *arguments)
    return folder / "bin"


def with_uv(folder: Path, *arguments: str | Path) -> Path:
    """The same with uv."""
    run(UV, "venv", "--quiet", "--python", sys.executable, folder)
    run(UV, "pip", "install", "--quiet", "--python", folder / "bin/python", *arguments)
    return folder / "bin"


def wheels(dist: Path, tag: str) -> list[Path]:
    """The wheels of both distributions for one kind of Python."""
    found = sorted(path for path in dist.glob("*.whl") if tag in path.name)
    assert [path.name.partition("-")[0] for path in found] == ["poolshift", "poolshift_service"]
    return found


def serves(folder: Path, *command: str | Path, is_compiled: bool, **settings: str) -> None:
    """Starts the installed service in a folder without a checkout, and runs a program of it."""
    folder.mkdir()
    settings |= {"PYTHONPATH": "", "PROGRAM_MODULES": "examples.text"}
    with running_service(folder, command=[str(word) for word in command], **settings) as service:
        program = service.create("examples.text:keywords", {"text": "string"}, "array", id="keywords")
        assert service.execute(program, inputs={"text": "to and fro"}).json()["outputs"] == {"result": ["fro"]}
        assert f"compiled={is_compiled}" in service.log()


@pytest.mark.parametrize("install", [with_pip, with_uv])
def test_a_pure_wheel_serves(dist: Path, locked: Path, tmp_path: Path, install: Installer) -> None:
    """By each installer, on any Python."""
    bin_folder = install(tmp_path / "env", "--constraint", locked, *wheels(dist, "py3-none-any"))
    serves(tmp_path / "empty", bin_folder / "poolshift", is_compiled=False)
    assert run(bin_folder / "poolshift", "--version", cwd=tmp_path).stdout.startswith("poolshift ")


def test_a_compiled_wheel_serves(dist: Path, locked: Path, tmp_path: Path) -> None:
    """The installer prefers it to the pure one if it is told the folder alone."""
    bin_folder = with_uv(tmp_path / "env", "--constraint", locked, "--find-links", dist, "poolshift-service")
    serves(tmp_path / "empty", bin_folder / "poolshift", is_compiled=True)
    assert wheels(dist, COMPILED)[0].name.endswith(f"_{sysconfig.get_platform().partition('-')[2]}.whl")


def test_uvx_serves_without_an_environment(dist: Path, locked: Path, tmp_path: Path) -> None:
    """As the page says it; the installer makes a passing environment by itself."""
    uvx: list[str | Path] = [
        UV,
        "tool",
        "run",
        "--python",
        sys.executable,
        "--constraints",
        locked,
        "--find-links",
        dist,
    ]
    own = {name: value for name, value in os.environ.items() if name.startswith(("UV_", "SSL_"))}
    own["UV_CACHE_DIR"] = run(UV, "cache", "dir").stdout.strip()
    serves(tmp_path / "empty", *uvx, "--from", "poolshift-service", "poolshift", is_compiled=True, **own)


def test_an_sdist_builds_and_installs(dist: Path, locked: Path, tmp_path: Path) -> None:
    """Without the checkout: both, one built on the other."""
    bin_folder = with_uv(tmp_path / "env", "--constraint", locked, *sorted(dist.glob("*.tar.gz")))
    serves(tmp_path / "empty", bin_folder / "poolshift", is_compiled=False)


def test_the_client_and_testing_install_alone(dist: Path, locked: Path, tmp_path: Path) -> None:
    """Without the service and what that needs."""
    (pure, _) = wheels(dist, "py3-none-any")
    bin_folder = with_pip(tmp_path / "env", "--constraint", locked, f"poolshift[client] @ {pure.as_uri()}")
    run(bin_folder / "python", "-c", "import poolshift.client, poolshift.testing", cwd=tmp_path)
    installed = run(bin_folder / "pip", "list", "--format=freeze").stdout.split()
    assert not {"fastapi", "sqlalchemy"} & {line.partition("==")[0] for line in installed}


def test_nothing_of_the_tests_is_in_a_package(dist: Path) -> None:
    """Neither they, nor their fakes, nor the bench: the service's wheel has the packages of its hook alone."""
    for wheel in [*wheels(dist, "py3-none-any"), *wheels(dist, COMPILED)]:
        with ZipFile(wheel) as archive:
            folders = {part for name in archive.namelist() for part in Path(name).parts[:-1]}
            assert not {"bench", "tests", "tools", "__pycache__"} & folders
            assert not [name for name in archive.namelist() if "fake" in name or name.endswith((".c", ".o"))]


def test_two_builds_are_the_same_bytes(dist: Path, tmp_path: Path) -> None:
    """A release can be built again by whoever doubts it."""
    again = build(tmp_path / "again")
    digests = [
        {path.name: sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()} for folder in (dist, again)
    ]
    assert digests[0] == digests[1]


def test_the_digests_are_those_of_the_packages(dist: Path) -> None:
    """Whoever downloads them checks them with one command."""
    listed = (dist / "SHA256SUMS").read_text().split()[1::2]
    assert set(listed) == {path.name for path in dist.iterdir()} - {"SHA256SUMS"}
    run("sha256sum", "--check", "--strict", "SHA256SUMS", cwd=dist)


def test_the_parts_list_names_every_package(dist: Path, tmp_path: Path) -> None:
    """All that the wheel is installed with, itself, and what browsers get from npm, each with a licence."""
    for wheel in wheels(dist, "py3-none-any"):
        shutil.copy(wheel, tmp_path)
    run("make", "sbom-packages", f"DIST={tmp_path}", cwd=ROOT)
    (file,) = tmp_path.glob("*.cdx.json")
    parts = json.loads(file.read_text())
    assert parts["metadata"]["component"]["name"] == "poolshift-service"
    found = {unquote(part["purl"]) for part in parts["components"] if part["licenses"]}
    (place,) = (ROOT / ".cache/ship/poolshift-service").glob("lib/python*/site-packages")
    installed = {(package.name, package.version) for package in distributions(path=[str(place)])}
    assert {name for name, _ in installed} > {"poolshift", "poolshift-service", "fastapi"}
    packages = {f"pkg:pypi/{re.sub('[-_.]+', '-', name).lower()}@{version}" for name, version in installed}
    assert found == packages | {f"pkg:npm/{name}@{part.version}" for name, part in read_manifest(VENDORED).items()}
