"""The git commit of the programs' code, read from the repository's files.

git itself is never run: it would carry out what the configuration of a folder names, and an image has none.
"""

import hashlib
import os
import re
import stat
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final

DIRTY: Final = "-dirty"
"""The end of a commit whose code has changed since, as `git describe --dirty` has it."""
MAX_BYTES: Final = 64 << 20
"""The largest file of a repository that is read."""

_HASH: Final = re.compile(rb"[0-9a-f]{40}")
_REF: Final = re.compile(r"refs/[\w@+][\w@+./-]*")
_INSTALLED: Final = frozenset({"site-packages", "dist-packages"})
_FIXED: Final = 40
"""Bytes of an index entry before its hash."""


class _Unreadable(Exception):
    """A repository whose files are not as git writes them."""


def commit_of(sources: Mapping[str, bytes]) -> str | None:
    """Returns the commit that source files, by their absolute paths, come from; None if there is no one commit.

    The commit ends with `-dirty` if a file differs from it, is not in it, or changes have been staged since.
    """
    files = {Path(os.path.realpath(path)): content for path, content in sources.items()}
    own = {path: content for path, content in files.items() if _INSTALLED.isdisjoint(path.parts)}
    find = cache(_repository)
    roots = {find(path.parent) for path in own}
    if len(roots) != 1 or (root := roots.pop()) is None:
        return None
    try:
        git = _git_folder(root)
        commit = _head(git)
        is_clean = _is_committed(git, {path.relative_to(root).as_posix(): one for path, one in own.items()})
    except (OSError, _Unreadable, ValueError, IndexError):
        return None
    return commit if is_clean else commit + DIRTY


def _repository(folder: Path) -> Path | None:
    """Returns the nearest folder above with a repository, or the folder itself."""
    return next((one for one in (folder, *folder.parents) if (one / ".git").exists()), None)


def _git_folder(root: Path) -> Path:
    """Returns the folder of a repository's files; a worktree or submodule names it in a file."""
    git = root / ".git"
    if git.is_dir():
        return git
    name, _, place = _read(git).decode().rstrip("\n").partition(": ")
    if name != "gitdir":
        raise _Unreadable
    return root / place


def _head(git: Path) -> str:
    """Returns the hash of the commit that is checked out."""
    head = _read(git / "HEAD").strip()
    if _HASH.fullmatch(head):
        return head.decode()
    name, _, ref = head.decode().partition(": ")
    if name != "ref" or ".." in ref or not _REF.fullmatch(ref):
        raise _Unreadable
    try:
        shared = git / _read(git / "commondir").decode().strip()
    except FileNotFoundError:
        shared = git
    return _value(shared, ref).decode()


def _value(git: Path, ref: str) -> bytes:
    try:
        value = _read(git / ref).strip()
    except FileNotFoundError:
        lines = _read(git / "packed-refs").splitlines()
        value = next((line.partition(b" ")[0] for line in lines if line.endswith(b" " + ref.encode())), b"")
    if not _HASH.fullmatch(value):
        raise _Unreadable
    return value


def _is_committed(git: Path, sources: Mapping[str, bytes]) -> bool:
    """Tells if the index has these files as they are, and nothing has been staged since the last commit."""
    index = _read(git / "index")
    if index[:4] != b"DIRC":
        raise _Unreadable
    hashes, end = _entries(index)
    return not _is_staged(index, end) and all(hashes.get(name) == _blob(one) for name, one in sources.items())


def _blob(content: bytes) -> bytes:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).digest()


def _entries(index: bytes) -> tuple[dict[str, bytes], int]:
    """Returns the hash of each file in an index, and the place behind the last one."""
    version, count = int.from_bytes(index[4:8], "big"), int.from_bytes(index[8:12], "big")
    if version not in (2, 3):
        raise _Unreadable
    hashes: dict[str, bytes] = {}
    at = 12
    for _ in range(count):
        value = index[at + _FIXED : at + _FIXED + 20]
        flags = int.from_bytes(index[at + _FIXED + 20 : at + _FIXED + 22], "big")
        name_at = at + _FIXED + 22 + (2 if flags & 0x4000 else 0)
        name_end = index.index(b"\0", name_at)
        hashes[os.fsdecode(index[name_at:name_end])] = b"" if flags & 0x3000 else value  # a file in conflict has none
        at += (name_end - at + 8) // 8 * 8
    return hashes, at


def _is_staged(index: bytes, at: int) -> bool:
    """Tells if the index says that the tree of its last commit no longer holds."""
    while at + 8 <= len(index) - 20:
        name, size = index[at : at + 4], int.from_bytes(index[at + 4 : at + 8], "big")
        if name == b"TREE":
            return index[at + 8 : at + 11] == b"\0-1"
        at += 8 + size
    return False


def _read(path: Path) -> bytes:
    """Reads a regular file of a bounded size; a pipe in its place is not waited for."""
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(file, "rb") as opened:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_BYTES:
            raise _Unreadable
        return opened.read(MAX_BYTES)
