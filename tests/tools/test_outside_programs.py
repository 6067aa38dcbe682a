"""The programs that tests run: each that a machine may lack has its group's marker, or the test fails everywhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.groups import WAY_TO
from tests.observability.conftest import log_lines
from tests.support.service import Service
from tests.support.tools import GROUP_OF, ROOT, check_spawn, running, tool


@pytest.mark.parametrize("name", sorted(name for name in GROUP_OF if ".so." not in name))
def test_a_program_without_its_marker_fails_the_test(name: str) -> None:
    """By its name, by its path, and within a shell's script; on a machine that has it too."""
    scripts = (name, [name]), (f"/usr/bin/{name}", [name]), ("bash", ["bash", "-c", f"echo a | {name} -b"])
    for executable, arguments in scripts:
        with pytest.raises(pytest.fail.Exception, match=f"mark the test with `{GROUP_OF[name]}`"):
            check_spawn(executable, arguments, frozenset({"timing"}))
        check_spawn(executable, arguments, frozenset({GROUP_OF[name]}))


def test_the_tests_own_process_is_watched() -> None:
    """A call of subprocess, whichever, is checked before the program begins; so is the search for its path."""
    assert running.groups == frozenset()
    for command in (["git", "--version"], ["sh", "-c", "curl --version"], ["strace", "true"]):
        with pytest.raises(pytest.fail.Exception, match=r"make/tools\.txt"):
            subprocess.run(command, check=False)
    with pytest.raises(pytest.fail.Exception, match="mark the test with `git`"):
        tool("git")


@pytest.mark.git
def test_a_marked_test_runs_the_program() -> None:
    """By the path that is found."""
    assert subprocess.run([tool("git"), "--version"], check=True, capture_output=True).stdout.startswith(b"git version")


@pytest.mark.parametrize("executable", [sys.executable, "/usr/bin/python3.13", "make", str(ROOT / ".cache/tool")])
def test_other_programs_need_no_marker(executable: str) -> None:
    """Interpreters, a bare Debian's programs, and all that the checkout itself has."""
    check_spawn(executable, [executable], frozenset())


def test_nothing_else_looks_for_programs() -> None:
    """Only these modules ask PATH: a test that found a program by itself would not be watched."""
    asking = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "tests").rglob("*.py")
        if re.search(r"\bshutil\.which\(|import which", path.read_text())
    }
    assert asking == {
        "tests/console/screenshots.py",  # is no test
        "tests/service/test_worker_user.py",  # a Python
        "tests/support/interpreters.py",  # Pythons
        "tests/support/tools.py",
        "tests/tools/test_outside_programs.py",
    }


def test_every_group_has_its_marker_and_a_way_to_it(pytestconfig: pytest.Config) -> None:
    """pytest knows the marker, and the reason of a skipped test names the command."""
    markers = {line.partition(":")[0] for line in pytestconfig.getini("markers")}
    groups = set(GROUP_OF.values())
    assert groups <= markers
    assert groups <= WAY_TO.keys()


def test_a_line_that_is_being_written_is_not_read(tmp_path: Path) -> None:
    """The log of a service that runs may end within a line."""
    service = Service(tmp_path)
    service.log_path.write_text('{"event": "a"}\n{"event": "b"}\n{"eve')
    assert [line["event"] for line in log_lines(service)] == ["a", "b"]
    service.client.close()
