"""Runs make as a user does, from a checkout."""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.service import ROOT, Service, free_port, is_alive
from tests.support.waiting import wait_until

FILES = [ROOT / "Makefile", *sorted((ROOT / "make").glob("*.mk"))]
TARGETS = {
    name
    for path in FILES
    for line in re.findall(r"^\.PHONY:(.*)$", path.read_text(), re.MULTILINE)
    for name in line.split()
}
INNER = {"chart-files", "runtime", "tools-if-possible"}
"""Targets that others use, and that nobody calls by name."""


def make(*arguments: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs make to its end."""
    return subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=cwd,
        env={"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout in which nothing was set up yet."""
    place = tmp_path / "checkout"
    shutil.copytree(ROOT, place, ignore=shutil.ignore_patterns(".*", "tests", "docs", "helm", "dist"))
    return place


def fake_python(directory: Path, script: str) -> Path:
    """A `python3` that comes first on PATH; its folder."""
    directory.mkdir()
    path = directory / "python3"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return directory


def test_help_has_every_target_with_its_description() -> None:
    """`make` and `make help` list each target once, with what it does, and name no file."""
    shown = make("help").stdout
    assert make().stdout == shown
    rows = dict(re.findall(r"^  make ([a-z-]+) +(\S.*)$", shown, re.MULTILINE))
    assert rows.keys() == TARGETS - INNER
    assert shown.count("  make ") == len(rows)
    assert ".mk" not in shown
    assert "Makefile" not in shown


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("echo Python 3.9.2", "'python3' is Python 3.9.2"),
        ("echo Python 3.10.14", "'python3' is Python 3.10.14"),
        ("echo Python 2.7.18 >&2", "'python3' is Python 2.7.18"),
        ("exit 127", "'python3' cannot be run"),
        ('test "$1" = --version && echo Python 3.12.1', "Python 3.12.1 cannot make virtual environments"),
    ],
)
@pytest.mark.parametrize("target", ["run", "test", "lint"])
def test_a_python_that_does_not_do_gets_one_line(
    checkout: Path, tmp_path: Path, target: str, script: str, says: str
) -> None:
    """The line names the Python and the way out; nothing is made."""
    place = fake_python(tmp_path / "bin", script)
    ended = make(target, cwd=checkout, PATH=f"{place}:{os.environ['PATH']}")
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1
    assert says in ended.stderr
    assert not (checkout / ".venv").exists()


class Run:
    """`make run`, with the service that it starts."""

    def __init__(self, directory: Path) -> None:
        self.service = Service(directory, PORT=free_port())
        self.output = directory / "make.log"
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(directory),
            "PYTHONPATH": str(ROOT),
            "PORT": str(self.service.port),
            "PROGRAM_MODULES": "examples,tests.support.programs",
            "DATABASE_URL": f"sqlite+aiosqlite:///{directory}/poolshift.db",
            "LOG_FORMAT": "json",
            "LM_MODEL": "",
        }
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                ["make", "--no-print-directory", "run"], cwd=ROOT, env=environment, stdout=output, stderr=output
            )

    def is_ready(self) -> bool:
        """Asks the service; fails the test if make has ended."""
        self.service.process = self.process
        return self.service.is_ready()


@contextmanager
def running(directory: Path) -> Iterator[Run]:
    """`make run` for as long as the block lasts."""
    run = Run(directory)
    try:
        wait_until(run.is_ready, "the service is ready")
        yield run
    finally:
        run.service.close()


def test_run_is_quiet_if_nothing_is_to_be_set_up(tmp_path: Path) -> None:
    """The first line of its output is the service's own, and so is each other."""
    with running(tmp_path) as run:
        lines = run.output.read_text().splitlines()
    assert lines
    assert all(line.startswith("{") for line in lines), lines


def test_run_hands_sigterm_on(tmp_path: Path) -> None:
    """SIGTERM to make ends the service, which first answers the call that it has accepted; no process is left."""
    with running(tmp_path) as run, ThreadPoolExecutor() as threads:
        hold = run.service.create("hold", {"directory": "string", "name": "string"})
        workers = run.service.worker_pids()
        place = tmp_path / "held"
        place.mkdir()
        call = threads.submit(run.service.execute, hold, inputs={"directory": str(place), "name": "here"})
        wait_until(lambda: any(place.glob("here.*")), "the call runs")

        run.process.send_signal(signal.SIGTERM)
        wait_until(lambda: '"draining"' in run.output.read_text(), "the drain has begun")
        (place / "go").touch()

        assert call.result(20).json()["outputs"] == {"result": "here"}
        run.process.wait(20)
        wait_until(lambda: not any(map(is_alive, workers)), "no worker is left")
