"""Packs what a pool's workers on other machines need of this one: code as an archive, and variables."""

import hashlib
import io
import os
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from pools.errors import SpawnFailed
from pools.process.program_code import ProgramCode
from poolshift.node.messages import Code
from poolshift.node.unpacked import OWN, PROGRAMS
from poolshift.worker.user_path import EXAMPLES

MAX_ARCHIVE_BYTES: Final = 32 * 1024 * 1024
_OF_THE_MACHINE: Final = frozenset(
    "HOME HOSTNAME LANG LANGUAGE LD_LIBRARY_PATH LOGNAME OLDPWD PATH PWD PYTHONHOME SHELL SHLVL TERM TMPDIR USER "
    "VIRTUAL_ENV _".split()
)
"""Variables that mean something on this machine alone."""
_NOT_CARRIED: Final = frozenset({"__pycache__", "node_modules"})
_PART_BYTES: Final = 1 << 20
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)


def pack(code: ProgramCode, environment: Mapping[str, str]) -> Code:
    """Packs the examples, the pool's folder of programs and the variables.

    Raises:
        SpawnFailed: the folder of the programs is not there, or too large to be carried.
        OSError: a file cannot be read.
    """
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        _add(archive, content, code.own_root / EXAMPLES, f"{OWN}/{EXAMPLES}")
        if code.programs_dir is not None:
            code.check_folder()
            _add(archive, content, code.programs_dir, PROGRAMS)
    data = content.getvalue()
    carried = {name: value for name, value in environment.items() if name not in _OF_THE_MACHINE}
    if code.programs_dir is not None:
        _drop_first(carried, str(code.programs_dir))
    return Code(data, carried, code.interpreter.python)


def stamp(code: ProgramCode) -> bytes:
    """Digests names, sizes and times of the files that would be packed: cheap enough for a look each second.

    Raises:
        OSError: a file went while the folder was read.
    """
    digest = hashlib.blake2b()
    for file in sorted(_files(code.programs_dir)) if code.programs_dir is not None else ():
        stat = file.stat()
        digest.update(f"{file}\0{stat.st_size}\0{stat.st_mtime_ns}\0{stat.st_mode}\0".encode(errors="surrogateescape"))
    return digest.digest()


def _add(archive: zipfile.ZipFile, content: io.BytesIO, folder: Path, name: str) -> None:
    """Adds all files, with the same time each, so that the same content makes the same archive."""
    archive.writestr(zipfile.ZipInfo(f"{name}/", _EPOCH), b"")
    for file in sorted(_files(folder)):
        info = zipfile.ZipInfo(f"{name}/{file.relative_to(folder)}", _EPOCH)
        stat = file.stat()
        info.external_attr, info.file_size = (stat.st_mode & 0o777) << 16, stat.st_size
        info.compress_type = zipfile.ZIP_DEFLATED
        with file.open("rb") as source, archive.open(info, "w") as packed:
            while part := source.read(_PART_BYTES):
                packed.write(part)
                _check_size(content, folder)
        _check_size(content, folder)


def _check_size(content: io.BytesIO, folder: Path) -> None:
    """Refuses what is too large as soon as it is: a folder of data must not fill the memory.

    Raises:
        SpawnFailed: it is too large.
    """
    if content.tell() > MAX_ARCHIVE_BYTES:
        raise SpawnFailed(f"{folder} is too large for the nodes: it has over {MAX_ARCHIVE_BYTES >> 20} MiB packed")


def _files(folder: Path) -> Iterator[Path]:
    for current, folders, files in os.walk(folder):
        folders[:] = [one for one in folders if _is_carried(Path(current, one))]
        yield from (path for path in (Path(current, file) for file in files) if path.is_file())  # no pipe, no socket


def _is_carried(folder: Path) -> bool:
    is_hidden = folder.name.startswith(".")
    return not is_hidden and folder.name not in _NOT_CARRIED and not (folder / "pyvenv.cfg").exists()


def _drop_first(carried: dict[str, str], folder: str) -> None:
    """Takes the folder off the path: on a node it is another one."""
    entries = carried.get("PYTHONPATH", "").split(os.pathsep)
    carried["PYTHONPATH"] = os.pathsep.join(entry for entry in entries if entry != folder)
