"""Fixtures for the tests that build, render and run what is shipped. `make test-ship` has what they need."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ship.containers import build_base, built_image
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
def either_chart(package: Path, helm: Path) -> Chart:
    """The released chart under each Helm."""
    return Chart(package, helm)


@pytest.fixture
def chart(package: Path) -> Chart:
    """The released chart under the newer Helm: of what both render the same, once is enough."""
    return Chart(package, BIN / "helm4")


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
def base(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Debian's own packages, in place of the image that the Dockerfile builds on."""
    build_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def image(base: None) -> Iterator[str]:
    """The image, as `make image` builds it."""
    with built_image() as name:
        yield name


@pytest.fixture(scope="session")
def lm_image(base: None) -> Iterator[str]:
    """The image with DSPy, the local model's server and its weights."""
    with built_image("lm local-model") as name:
        yield name
