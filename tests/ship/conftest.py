"""Fixtures for the tests that build, render and run what is shipped. `make test-ship` has what they need."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ship.containers import BASE, PYTHON, build_base, build_flags, podman
from tests.ship.tools import BIN, Chart, run
from tests.support.service import ROOT

PLACEHOLDERS = ROOT / "tests/ship/chart_files"
DASHBOARDS = ROOT / "dashboards"
CI_VALUES = sorted((ROOT / "helm/ci").glob("*-values.yaml"))
CASES = [*CI_VALUES, ROOT / "helm/values-prod.yaml"]


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chart as it is released."""
    dist = tmp_path_factory.mktemp("dist")
    run("make", "chart", f"HELM={BIN / 'helm4'}", f"DIST={dist}", cwd=ROOT)
    (package,) = dist.glob("poolshift-*.tgz")
    return package


@pytest.fixture(params=["helm3", "helm4"])
def helm(request: pytest.FixtureRequest) -> Path:
    """Each Helm that the chart is for."""
    return BIN / str(request.param)


@pytest.fixture
def chart(package: Path, helm: Path) -> Chart:
    """The released chart under each Helm."""
    return Chart(package, helm)


@pytest.fixture
def bare_chart(tmp_path: Path) -> Chart:
    """The chart's own files, with the smallest dashboard and rule: nothing in it changes with a release."""
    folder = tmp_path / "chart"
    shutil.copytree(ROOT / "helm", folder, ignore=shutil.ignore_patterns("files"))
    (folder / "files/dashboards").mkdir(parents=True)
    shutil.copy(PLACEHOLDERS / "one.json", folder / "files/dashboards")
    shutil.copytree(PLACEHOLDERS / "rules", folder / "files/rules")
    return Chart(folder, BIN / "helm4")


@pytest.fixture(params=CASES, ids=lambda path: path.stem.removesuffix("-values").removeprefix("values-"))
def values(request: pytest.FixtureRequest) -> Path:
    """Each set of values."""
    path: Path = request.param
    return path


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The image, built by `make image` on Debian's own packages."""
    build_base(tmp_path_factory.mktemp("base"))
    name = f"localhost/poolshift-test:{os.getpid()}"
    flags = f"{build_flags()} --format docker --build-arg PYTHON_IMAGE={PYTHON} --build-arg RUNTIME_IMAGE={BASE}"
    run("make", "image", "BUILDER=buildah", f"BUILD_FLAGS={flags}", f"IMAGE={name}", cwd=ROOT)
    yield name
    podman("rmi", "--force", name)
