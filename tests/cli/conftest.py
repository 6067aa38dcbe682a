"""Runs the console script in a process of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import preloaded
from tests.support.service import Service, running_service

SCRIPT = Path(sys.executable).parent / "poolshift"
"""The script that pip has installed."""


@dataclass(frozen=True)
class Poolshift:
    """The command, in a folder and with an environment that hold nothing but what a test puts there."""

    directory: Path
    environment: dict[str, str]

    def at(self, url: str, **environment: str) -> "Poolshift":
        """The same for a service that is elsewhere."""
        return Poolshift(self.directory, {**self.environment, "POOLSHIFT_URL": url, **environment})

    def __call__(self, *arguments: object, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        """Runs it to its end."""
        variables, words = {**self.environment, **environment}, [str(argument) for argument in arguments]
        if preloaded.can_run(variables):
            return preloaded.run(words, self.directory, variables, stdin, 60)
        return subprocess.run(
            [SCRIPT, *words],
            cwd=self.directory,
            env=variables,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def succeeds(self, *arguments: object, **more: str) -> str:
        """Returns the output of a command that succeeds without a complaint."""
        ended = self(*arguments, **more)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    def json(self, *arguments: object, **more: str) -> Any:
        """Returns the output with `--json`, and checks that nothing else is printed."""
        ended = self(*arguments, "--json", **more)
        assert (ended.returncode, ended.stderr) == (0, "")
        return json.loads(ended.stdout)

    def fails(self, exit_code: int, *arguments: object, **more: str) -> str:
        """Returns the complaint: one line, no traceback, and nothing on standard output."""
        ended = self(*arguments, **more)
        assert ended.returncode == exit_code, ended.stderr
        assert ended.stdout == ""
        assert ended.stderr.startswith("poolshift: ")
        assert ended.stderr.count("\n") == 1
        return ended.stderr.removeprefix("poolshift: ").rstrip("\n")


@pytest.fixture
def poolshift(tmp_path: Path) -> Poolshift:
    """The command, without a service."""
    return Poolshift(tmp_path, {"PATH": os.environ["PATH"], "HOME": str(tmp_path)})


@pytest.fixture(scope="package")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """An open service for all tests of the command; each makes its own programs, and sets the rollout that it needs."""
    with running_service(tmp_path_factory.mktemp("service-cli")) as service:
        yield service


@pytest.fixture
def operator(poolshift: Poolshift, service: Service) -> Poolshift:
    """The command for that service."""
    return poolshift.at(service.url)


def lines(output: str) -> list[list[str]]:
    """The words of each line."""
    return [line.split() for line in output.splitlines()]
