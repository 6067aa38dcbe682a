"""Processes of the service's own: closed to others of their user before they hold a secret."""

import asyncio
import json
import os
import re
import signal
from asyncio.subprocess import PIPE
from typing import Any

import pytest

from common import own_process
from tests.support.service import ROOT

pytestmark = pytest.mark.anyio

STARTS = re.compile(
    r"create_subprocess_(exec|shell)|subprocess\.(Popen|run|call|check_\w+)\(|os\.(fork|exec\w*|posix_spawn\w*)\("
)
OF_PROGRAMS = {
    "pools/process/import_check.py",
    "pools/process/interpreter.py",
    "pools/process/local_zygote.py",
}
"""Files that start processes for programs' code, which get the variables of workers alone and hide themselves."""
REPLICAS = "app/replicas/supervisor.py"
"""Forks the service itself, which is hidden before it reads a secret."""


async def started(*arguments: str, **variables: str) -> dict[str, Any]:
    process = await own_process.start("tests.support.own_module", *arguments, variables=variables, stdout=PIPE)
    output, _ = await process.communicate()
    assert process.returncode == 0
    said: dict[str, Any] = json.loads(output)
    return said


async def test_variables_come_once_it_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The module has them; /proc shows neither them nor those of the service, and nobody of its user looks in."""
    monkeypatch.setenv("SERVICES_SECRET", "a secret")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    said = await started("a", "b c", MY_SECRET="höhle=\n", EMPTY="")
    assert (said["arguments"], said["dumpable"], said["path"]) == (["a", "b c"], 0, str(ROOT))
    assert (said["environment"]["MY_SECRET"], said["environment"]["EMPTY"]) == ("höhle=\n", "")
    assert "SERVICES_SECRET" not in said["environment"]
    assert said["environment"]["LC_ALL"] == "C.UTF-8"
    assert not re.search("MY_SECRET|SERVICES_SECRET", said["shown"])
    assert ("LC_ALL" in said["shown"]) == (os.geteuid() == 0)


async def test_many_variables() -> None:
    """More than fits into a socket's buffer, as in a cluster with thousands of services."""
    variables = {f"SERVICE_{number}_PORT": "tcp://10.0.0.1:80" * 5 for number in range(20_000)}
    said = await started(**variables)
    assert variables.items() <= said["environment"].items()


async def test_a_module_that_is_not_there() -> None:
    """The end of the process shows it, as it does for one that fails later."""
    process = await own_process.start("tests.support.no_such_module", variables={}, stderr=PIPE)
    _, faults = await process.communicate()
    assert process.returncode == 1
    assert b"No module named tests.support.no_such_module" in faults


async def test_who_ends_a_process_may_be_cancelled() -> None:
    """Once while the process ends by itself, and again while it is killed: it has ended before anybody goes on."""
    process = await asyncio.create_subprocess_exec("sleep", "600")
    ending = asyncio.create_task(own_process.end(process, within_s=60))
    for _ in range(3):
        await asyncio.sleep(0)
        ending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ending
    assert process.returncode == -signal.SIGKILL


def test_every_process_of_the_service_starts_closed() -> None:
    """A start by other means would be open: each file that has one is for programs' code."""
    folders = ("app", "common", "pools", "routing", "store")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    starting = {str(path.relative_to(ROOT)) for path in files if STARTS.search(path.read_text())}
    assert starting == OF_PROGRAMS | {"common/own_process.py", REPLICAS}
