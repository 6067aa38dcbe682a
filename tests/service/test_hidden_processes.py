"""No process of the service's, a sibling worker included, can be looked into by a program of the same user."""

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.groups import MODULES_OF
from tests.service.test_worker_user import MODULES, NOBODY, command, directory
from tests.support.service import Service, free_port
from tests.support.waiting import wait_until

__all__ = ["command", "directory"]

HAS_LM = all(map(find_spec, MODULES_OF["lm"]))
OF_ALL_PARTS = {
    "WEB_CONCURRENCY": 2,
    "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}",
    "OTEL_EXPORTER_OTLP_HEADERS": "authorization=a-secret",
    **({"LM_MODEL": "local"} if HAS_LM else {}),
}
"""Settings by which the service has every kind of process that one machine can have."""
PARTS = {
    "serve",
    "poolshift.worker.zygote",
    "app.fronts.front",
    "routing.telemetry.span_exporter",
    *(["app.local_lm.server"] if HAS_LM else []),
}
DENIED = {f"{way} denied" for way in ("environ", "memory", "files", "file", "trace")}


@pytest.fixture
def hidden(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Service]:
    """A service of a user that is not root, with all kinds of processes."""
    settings: dict[str, Any] = {"PROGRAM_MODULES": MODULES, "V1_POOL_SIZE": 3, "V2_POOL_SIZE": 3, **OF_ALL_PARTS}
    place = tmp_path
    if os.geteuid() == 0:
        place = request.getfixturevalue("directory")
        os.chown(place, NOBODY.pw_uid, NOBODY.pw_gid)
        settings |= {"command": request.getfixturevalue("command"), "user": NOBODY.pw_uid}
    service = Service(place, **settings)
    yield service
    service.close()


def test_a_program_looks_into_no_process_of_the_service(hidden: Service, version: str) -> None:
    """Environment, memory and files of all are closed, whatever Yama says: only a process's start is not covered."""
    hidden._settings["POOL_VERSION"] = version
    hidden.start()
    wait_until(lambda: hidden.pool(version)["idle"] == 3, "all workers are there")
    wait_until(lambda: hidden.metric("poolshift_fronts") == 2, "both fronts serve")
    program = hidden.create("tests.support.spies:looks_at_everyone", {}, "object")
    found = hidden.execute(program).json()["outputs"]["result"]
    assert {part for part in PARTS if any(part in one for one in found)} == PARTS
    assert {one: set(outcomes) for one, outcomes in found.items()} == dict.fromkeys(found, DENIED)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change the user of a process")
def test_a_worker_of_another_user_takes_nothing_of_a_sibling(directory: Path, command: list[str], version: str) -> None:
    """With `WORKER_USER`, too: workers share that user, and a sibling's pipe answers another owner's call."""
    sizes = {f"{name.upper()}_POOL_SIZE": 3 for name in ("v1", "v2")}
    service = Service(
        directory, command=command, PROGRAM_MODULES=MODULES, POOL_VERSION=version, WORKER_USER="nobody", **sizes
    )
    try:
        service.start()
        wait_until(lambda: service.pool(version)["idle"] == 3, "all workers are there")
        program = service.create("tests.support.spies:looks_at_everyone", {}, "object")
        found = service.execute(program).json()["outputs"]["result"]
        assert len(found) >= 7
        assert {one: set(outcomes) for one, outcomes in found.items()} == dict.fromkeys(found, DENIED)
    finally:
        service.close()


def test_workers_are_measured_and_are_the_first_victims(hidden: Service, version: str) -> None:
    """A service that is not root still tells its workers' memory, time and files; the kernel ends them first."""
    hidden._settings["POOL_VERSION"] = version
    hidden.start()
    wait_until(lambda: hidden.pool(version)["idle"] == 3, "all workers are there")
    for worker in hidden.pool(version)["workers"]:
        assert worker["rss_bytes"] > 0
        assert worker["cpu_seconds"] >= 0
        assert worker["open_fds"] >= 4
        assert Path(f"/proc/{worker['pid']}/oom_score_adj").read_text() == "500\n"
        zygote = Path(f"/proc/{worker['pid']}/stat").read_text().rpartition(")")[2].split()[1]
        assert Path(f"/proc/{zygote}/oom_score_adj").read_text() == Path("/proc/self/oom_score_adj").read_text()
