"""The git commit of programs' code, read without git; the repositories are git's own."""

import os
import subprocess
from pathlib import Path

import pytest

from poolshift.worker.git_commit import commit_of
from tests.support.tools import tool

pytestmark = pytest.mark.git

CODE = b"def price() -> int:\n    return 1\n"


def git(folder: Path, *arguments: str) -> str:
    """Runs git as a developer of the programs does."""
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false"]
    command = [tool("git"), "-C", str(folder), *identity, *arguments]
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder.parent), "GIT_CONFIG_NOSYSTEM": "1"}
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with a program, committed."""
    folder = tmp_path / "shop"
    (folder / "programs").mkdir(parents=True)
    (folder / "programs/shop.py").write_bytes(CODE)
    git(folder, "init", "--quiet", "--initial-branch", "main")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "one")
    return folder


def sources(folder: Path) -> dict[str, bytes]:
    """All source files of a folder, as a zygote has read them."""
    return {str(path): path.read_bytes() for path in folder.rglob("*.py")}


def test_committed_code_has_its_commit(checkout: Path) -> None:
    """On a branch, with its refs packed, on a detached head and in a worktree."""
    head = git(checkout, "rev-parse", "HEAD")
    assert commit_of(sources(checkout)) == head
    git(checkout, "pack-refs", "--all")
    assert commit_of(sources(checkout)) == head
    git(checkout, "worktree", "add", "--quiet", str(checkout.parent / "beside"), "-b", "other")
    assert commit_of(sources(checkout.parent / "beside")) == head
    git(checkout, "checkout", "--quiet", "--detach")
    (checkout / "programs/README").write_text("no code")
    assert commit_of(sources(checkout)) == head


def test_other_code_is_dirty(checkout: Path) -> None:
    """A changed file, a new one, a staged change; a commit makes it clean again."""
    head = git(checkout, "rev-parse", "HEAD")
    file = checkout / "programs/shop.py"
    file.write_bytes(CODE.replace(b"1", b"2"))
    assert commit_of(sources(checkout)) == f"{head}-dirty"
    git(checkout, "add", ".")
    assert commit_of(sources(checkout)) == f"{head}-dirty"
    git(checkout, "commit", "--quiet", "--message", "two")
    assert commit_of(sources(checkout)) == git(checkout, "rev-parse", "HEAD") != head
    (checkout / "programs/new.py").write_bytes(CODE)
    assert commit_of(sources(checkout)) == f"{git(checkout, 'rev-parse', 'HEAD')}-dirty"


def test_code_of_no_single_repository_has_none(checkout: Path, tmp_path: Path) -> None:
    """Outside of any repository, in two, before the first commit, or without sources."""
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain/shop.py").write_bytes(CODE)
    assert commit_of(sources(tmp_path / "plain")) is None
    assert commit_of(sources(tmp_path)) is None
    git(tmp_path / "plain", "init", "--quiet")
    assert commit_of(sources(tmp_path / "plain")) is None
    assert commit_of({}) is None


def test_installed_packages_in_the_folder_are_left_out(checkout: Path) -> None:
    """A virtual environment in a checkout is not its code."""
    installed = checkout / "env/lib/python3/site-packages"
    installed.mkdir(parents=True)
    (installed / "six.py").write_bytes(CODE)
    assert commit_of(sources(checkout)) == git(checkout, "rev-parse", "HEAD")


@pytest.mark.parametrize("head", [b"", b"ref: refs/../../secret\n", b"ref: /etc/passwd\n", b"\xff\xfe", b"0123abc\n"])
def test_a_hostile_head_names_nothing(checkout: Path, head: bytes) -> None:
    """Paths that lead out of the repository are not read, and nothing but a hash is told."""
    (checkout / "secret").write_text("password")
    (checkout / ".git/HEAD").write_bytes(head)
    assert commit_of(sources(checkout)) is None


@pytest.mark.parametrize("name", ["HEAD", "index", "refs/heads/main"])
@pytest.mark.parametrize("kind", ["pipe", "garbage", "cut", "large", "gone", "folder"])
def test_hostile_files_end_nothing(checkout: Path, name: str, kind: str) -> None:
    """A pipe is not waited for, and no content raises or takes long."""
    path = checkout / ".git" / name
    content = path.read_bytes()
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "garbage":
        path.write_bytes(b"DIRC\0\0\0\2\xff\xff\xff\xff" + os.urandom(4096))
    elif kind == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif kind == "large":
        with path.open("wb") as file:
            file.truncate(1 << 30)
    elif kind == "folder":
        path.mkdir()
    assert commit_of(sources(checkout)) is None


def test_nothing_that_the_repository_names_is_run(checkout: Path) -> None:
    """Neither a monitor of the file system, nor a filter, nor a hook."""
    mark = checkout.parent / "ran"
    for name in ("core.fsmonitor", "core.pager", "filter.evil.clean"):
        git(checkout, "config", name, f"touch {mark}")
    (checkout / ".gitattributes").write_text("*.py filter=evil\n")
    assert commit_of(sources(checkout)) is not None
    assert not mark.exists()
