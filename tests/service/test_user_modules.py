"""A user's modules may have any name but `poolshift`: neither the service nor a worker mixes them with its own."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from common import own_process
from tests.conftest import StartService
from tests.support.service import POOLSHIFT, Service, running_service

OWN = {path.name for path in own_process.ROOT.iterdir() if (path / "__init__.py").exists()} - {"poolshift"}
NAMES = sorted(OWN | {"analysis", "uvicorn", "fastapi"})
"""Names of the service's own packages, and of two that it is built on."""
SHOP = """
import importlib.util

def origins(names):
    import {imports}
    return {{name: importlib.import_module(name).__file__ for name in names}}

def found(names):
    return {{name: importlib.util.find_spec(name) is not None for name in names}}
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A user's folder: a program, and beside it a module of each name."""
    folder = tmp_path / "shop"
    folder.mkdir()
    for name in NAMES:
        (folder / f"{name}.py").write_text(f"VAT = {name!r}\n")
    (folder / "shop.py").write_text(SHOP.format(imports=", ".join(NAMES)))
    return folder


def in_the_current_folder(folder: Path, version: str) -> dict[str, str]:
    return {"cwd": str(folder), "PYTHONPATH": ""}


def on_pythonpath(folder: Path, version: str) -> dict[str, str]:
    return {"PYTHONPATH": str(folder)}


@pytest.fixture(params=[in_the_current_folder, on_pythonpath])
def service(request: pytest.FixtureRequest, shop: Path, tmp_path: Path, version: str) -> Iterator[Service]:
    place: Callable[[Path, str], dict[str, str]] = request.param
    settings = place(shop, version)
    directory = Path(settings.pop("cwd", str(tmp_path)))
    with running_service(
        directory,
        command=POOLSHIFT,
        POOL_VERSION=version,
        PROGRAM_MODULES="shop,examples",
        DATABASE_URL=f"sqlite+aiosqlite:///{tmp_path}/names.db",
        **settings,
    ) as running:
        yield running


def test_every_module_of_the_users_is_the_users(service: Service, shop: Path) -> None:
    """A program that imports them gets its own, on both versions, and the service starts all the same."""
    program = service.create("shop:origins", {"names": "array"}, output="object")
    answer = service.execute(program, inputs={"names": NAMES})
    assert answer.status_code == 200, answer.text
    assert answer.json()["outputs"]["result"] == {name: str(shop / f"{name}.py") for name in NAMES}


def test_nothing_of_the_service_is_on_a_workers_path(start_service: StartService, tmp_path: Path, version: str) -> None:
    """A program that asks for the service's packages finds none but the examples and `poolshift`."""
    (tmp_path / "shop.py").write_text(SHOP.format(imports="json"))
    settings = {"POOL_VERSION": version, "PROGRAM_MODULES": "shop", "PYTHONPATH": tmp_path}
    service = start_service(command=POOLSHIFT, **settings)
    program = service.create("shop:found", {"names": "array"}, output="object")
    answer = service.execute(program, inputs={"names": [*OWN, "poolshift"]})
    assert answer.status_code == 200, answer.text
    found = json.loads(answer.text)["outputs"]["result"]
    assert {name for name, is_there in found.items() if is_there} == {"examples", "poolshift"}


def test_the_examples_are_there_without_a_users_own(start_service: StartService, version: str) -> None:
    """They are found last, so that the first call of a newcomer works wherever the service was started."""
    service = start_service(command=POOLSHIFT, POOL_VERSION=version, PROGRAM_MODULES="examples", PYTHONPATH="")
    program = service.create(
        "examples.text:keywords", {"text": "string"}, outputs=[{"name": "keywords", "type": "array"}]
    )
    assert service.execute(program, inputs={"text": "to and fro"}).status_code == 200
