"""docs/tutorial.md, block by block: a project of one's own, two environments, traffic, a ramp, a rotation and back."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.lm.endpoint import running_endpoint
from tests.support.pages import Block, blocks, page
from tests.support.service import free_port
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.judge, pytest.mark.lm]
RAMP_S = 1800
"""The longest time that the ramp may take; the median of a promotion at 60 calls a second is 4 minutes."""


class Reader:
    """Runs the page's blocks as a person with three shells would."""

    def __init__(self, folder: Path, lm: str) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.folder = folder
        self._environment = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(folder),
            "PORT": str(port),
            "POOLSHIFT_URL": self.url,
            "LM_MODEL": "openai/test",
            "LM_API_BASE": lm,
            "LM_API_KEY": "k",
            **{name: value for name, value in os.environ.items() if name.startswith(("PIP_", "UV_"))},
        }

    def runs(self, command: str) -> str:
        """Runs a block to its end; returns what it prints on either stream."""
        ran = subprocess.run(
            ["sh", "-ec", command],
            cwd=self.folder,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=RAMP_S,
        )
        assert ran.returncode == 0, f"{command}\n{ran.stdout}"
        return ran.stdout

    @contextmanager
    def leaves_running(self, command: str, end: signal.Signals) -> Iterator[Path]:
        """Runs a block in a shell of its own until the end of this block; yields the file with what it prints."""
        log = self.folder.parent / f"{command.split(maxsplit=1)[0]}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["sh", "-ec", f"exec {command}"], cwd=self.folder, env=self._environment, stdout=output, stderr=output
            )
        try:
            yield log
        finally:
            process.send_signal(end)
            process.wait(120)

    def is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def v1_packages(self) -> dict[str, str]:
        """The packages of V1, as the service shows them."""
        packages: dict[str, str] = httpx.get(f"{self.url}/pools/v1").json()["packages"]
        return packages


def commands() -> list[Block]:
    """The blocks that a reader types."""
    return [block for block in blocks(page("tutorial.md")) if block.info.split()[:1] == ["sh"]]


def part(info: str) -> int:
    """The number of the one block with this info string."""
    (number,) = (number for number, block in enumerate(commands()) if block.info == info)
    return number


def test_a_newcomers_story_loses_no_call(tmp_path: Path) -> None:
    """From `init` to a promoted, rotated and unrotated V2, under 60 calls a second from before the ramp on."""
    with running_endpoint() as endpoint:
        reader = Reader(tmp_path, endpoint.base("answers"))
        steps = [block.text for block in commands()]
        serve, calls = part("sh serve"), part("sh calls")
        assert "README.md says how to go on" in reader.runs(steps[0])
        reader.folder = tmp_path / "shop"
        for step in steps[1:serve]:
            reader.runs(step)
        with reader.leaves_running(steps[serve], signal.SIGTERM):
            wait_until(reader.is_ready, "the service is ready", 180)
            for step in steps[serve + 1 : calls]:
                said = reader.runs(step)
            with reader.leaves_running(steps[calls], signal.SIGINT) as log:
                set_out, watch, rotate, unrotate, history = steps[calls + 1 :]
                assert "ramping" in reader.runs(set_out)
                assert "promoted" in reader.runs(watch)
                reader.runs(rotate)
                assert reader.v1_packages()["scikit-learn"] == "1.6.1"
                said = reader.runs(unrotate)
                assert "scikit-learn 1.5.2 → 1.6.1" in said
                assert reader.v1_packages()["scikit-learn"] == "1.5.2"
                assert "rotation" in reader.runs(history)
            counted = re.search(r"(\d+) calls, (\d+) failed", log.read_text())
    assert counted is not None, log.read_text()
    assert int(counted[1]) > 3000
    assert counted[2] == "0", log.read_text()
