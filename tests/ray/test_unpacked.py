"""The node's copies of a service's code: whole, shared, and removed when nobody uses them."""

import subprocess
import sys
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pools.process.program_code import ProgramCode
from pools.ray.code import pack
from poolshift.node.messages import Code
from poolshift.node.unpacked import PROGRAMS, Unpacked
from tests.support.service import ROOT

FILES = 300


@pytest.fixture
def unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Unpacked]:
    """On a machine of its own, as far as temporary folders go."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    made = Unpacked()
    yield made
    made.close()
    assert not list((tmp_path / "tmp").iterdir())


def code_of(folder: Path, content: str) -> Code:
    """An archive of many files with the same content."""
    folder.mkdir()
    for number in range(FILES):
        (folder / f"{number}.py").write_text(content)
    return pack(ProgramCode(allowed_modules=("examples",), own_root=ROOT, programs_dir=folder), {})


def test_nobody_sees_half_of_an_archive(unpacked: Unpacked, tmp_path: Path) -> None:
    """A zygote and a question to the interpreter begin at the same time, in two threads."""
    code = code_of(tmp_path / "programs", "one")

    def count(_: int) -> int:
        with unpacked.using(code) as root:
            return len(list((root / PROGRAMS).iterdir()))

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(count, range(8))) == {FILES}


def test_an_archive_that_nobody_uses_is_removed(unpacked: Unpacked, tmp_path: Path) -> None:
    """A reload brings another one: the last one stays for as long as its workers do."""
    one, other, third = (code_of(tmp_path / content, content) for content in ("one", "other", "third"))
    with unpacked.using(one) as first:
        with unpacked.using(other) as second:
            assert first.is_dir()
        with unpacked.using(third):
            assert first.is_dir()
            assert not second.exists()


def test_an_archive_that_is_broken_leaves_nothing(unpacked: Unpacked, tmp_path: Path) -> None:
    """The same archive can be had when there is room on the disk again."""
    code = code_of(tmp_path / "programs", "one")
    broken = Code(code.archive[: len(code.archive) // 2], {})
    for _ in range(2):
        with pytest.raises(zipfile.BadZipFile), unpacked.using(broken):
            pass
    with unpacked.using(code) as root:
        assert [folder for folder in root.parent.iterdir() if folder != root] == []


def test_the_folder_of_a_killed_agent_is_removed(unpacked: Unpacked, tmp_path: Path) -> None:
    """By the next agent on the node; those that live keep theirs."""
    made = "import os; from poolshift.node.unpacked import Unpacked; print(Unpacked()); os._exit(1)"
    environment = {"TMPDIR": str(tmp_path / "tmp"), "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", made], env=environment, check=False)
    assert len(list((tmp_path / "tmp").iterdir())) == 2
    Unpacked().close()
    assert len(list((tmp_path / "tmp").iterdir())) == 1
    with unpacked.using(code_of(tmp_path / "programs", "one")) as root:
        assert root.is_dir()
