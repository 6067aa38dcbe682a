"""The archive that nodes get: the same content is the same archive, and what has no place on a node is left out."""

import io
import os
import zipfile
from pathlib import Path

import pytest

from pools.errors import SpawnFailed
from pools.process.program_code import ProgramCode
from pools.ray import code as packing
from pools.ray.code import pack
from tests.support.service import ROOT


def code_of(folder: Path | None) -> ProgramCode:
    return ProgramCode(allowed_modules=("examples",), own_root=ROOT, programs_dir=folder)


def names(archive: bytes) -> set[str]:
    return {name for name in zipfile.ZipFile(io.BytesIO(archive)).namelist() if not name.startswith("own/")}


def test_the_folder_of_the_programs(tmp_path: Path) -> None:
    """Data goes along; hidden folders, caches and virtual environments do not."""
    for name in ("mine.py", "data/words.txt", ".git/config", "__pycache__/mine.pyc", "env/pyvenv.cfg", "env/lib/a.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text("content")
    packed = pack(code_of(tmp_path), {})
    assert names(packed.archive) == {"programs/", "programs/mine.py", "programs/data/words.txt"}
    os.utime(tmp_path / "mine.py", (0, 0))
    assert pack(code_of(tmp_path), {}).archive == packed.archive


def test_variables_of_this_machine_stay_here(tmp_path: Path) -> None:
    """The folder on the path, too: on a node it is another one."""
    path = os.pathsep.join([str(tmp_path), "/shared"])
    packed = pack(code_of(tmp_path), {"PATH": "/bin", "HOME": "/root", "MINE": "1", "PYTHONPATH": path})
    assert packed.environment == {"MINE": "1", "PYTHONPATH": "/shared"}


def test_a_folder_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one line, before anything is sent."""
    monkeypatch.setattr(packing, "MAX_ARCHIVE_BYTES", 100)
    with pytest.raises(SpawnFailed, match="too large for the nodes"):
        pack(code_of(tmp_path), {})


def test_a_folder_of_data_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is refused as soon as the archive is too large, long before the file ends. A pipe is no file."""
    monkeypatch.setattr(packing, "MAX_ARCHIVE_BYTES", 1 << 20)
    os.mkfifo(tmp_path / "a pipe")
    with (tmp_path / "model.bin").open("wb") as file:
        file.write(os.urandom(3 << 20))
        file.truncate(1 << 40)  # a tebibyte, of which the disk has 3 MiB
    with pytest.raises(SpawnFailed, match="it has over 1 MiB packed"):
        pack(code_of(tmp_path), {})


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    """As on one machine."""
    with pytest.raises(SpawnFailed, match="is not there"):
        pack(code_of(tmp_path / "none"), {})
