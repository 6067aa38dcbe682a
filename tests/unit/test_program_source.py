"""Modules of programs are loaded from their source; installed packages keep their cached bytecode."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.service import ROOT

IMPORTER = """
import sys
from poolshift.worker import program_source
program_source.install(["shop.prices"])
import shop, shop.prices, helper
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a program's package and a module beside it."""
    (tmp_path / "shop").mkdir()
    for name in ("shop/__init__", "shop/prices", "helper"):
        (tmp_path / f"{name}.py").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("beside", "cached"),
    [(None, set()), ("helper-1.0.dist-info", {"helper"})],
    ids=["a folder of programs", "a folder of an installer"],
)
def test_what_is_cached(folder: Path, beside: str | None, cached: set[str]) -> None:
    """Nothing that a program may come from is, wherever that lies."""
    if beside is not None:
        (folder / beside).mkdir()
    path = f"{folder}:{ROOT}"
    subprocess.run([sys.executable, "-P", "-c", IMPORTER], env={"PYTHONPATH": path}, check=True)
    assert {file.name.partition(".")[0] for file in folder.rglob("*.pyc")} == cached


def test_packages_of_the_interpreter_are_not_concerned() -> None:
    """They are imported as ever, by Python's own loader."""
    source = f"{IMPORTER.rpartition('import shop')[0]}import msgspec, ast\nprint(type(msgspec.__loader__).__name__)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", source],
        env={"PYTHONPATH": str(ROOT)},
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "SourceFileLoader\n"


def test_what_is_kept_is_loaded_whatever_becomes_of_the_files(folder: Path) -> None:
    """Files that have changed, that have gone with their folder, and one in whose place there is a package now."""
    source = f"""
import shutil, sys
from pathlib import Path
from poolshift.worker import program_source
from poolshift.worker.revision import CodeRevision
folder = Path({str(folder)!r})
for file in folder.rglob("*.py"):
    file.write_text(f"SEEN = 'old {{file.stem}}'")
program_source.install(["shop", "helper"])
program_source.keep(CodeRevision(["shop", "helper"], Path({str(ROOT)!r})).sources)
shutil.rmtree(folder / "shop")
(folder / "helper.py").write_text("SEEN = 'new'")
(folder / "helper").mkdir()
(folder / "helper/__init__.py").write_text("SEEN = 'new'")
(folder / "later.py").write_text("SEEN = 'later'")
import shop, shop.prices, helper, later
print(shop.SEEN, shop.prices.SEEN, helper.SEEN, later.SEEN, sep=", ")
"""
    done = subprocess.run(
        [sys.executable, "-P", "-c", source],
        env={"PYTHONPATH": f"{folder}:{ROOT}"},
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "old __init__, old prices, old helper, later\n"
