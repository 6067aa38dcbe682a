"""Calls never wait for a worker to load what was used lately: at a restart, a first step, 100 % and a rotation."""

import threading
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import StartService
from tests.support.service import Service
from tests.support.user_code import UserCode
from tests.support.waiting import wait_until

SLOW = """
import time

class Model:
    def setup(self):
        time.sleep(LOAD_S)

    def __call__(self):
        return 42

def cheap(nonce):
    return nonce
"""
LOAD_S = 2.0
SIZE = 4
CLIENTS = 16
PACE_S = 0.1
PLAN = {"steps": [{"percent": 50, "hold_s": 1, "min_calls": 50}, {"percent": 60, "hold_s": 600}]}
pytestmark = [pytest.mark.timing]


@pytest.fixture
def code(tmp_path: Path) -> UserCode:
    """A module whose program takes seconds to set up, which no zygote can do ahead."""
    code = UserCode(tmp_path / "code")
    code.write(f"LOAD_S = {LOAD_S}\n{SLOW}")
    return code


@pytest.fixture
def service(start_service: StartService, code: UserCode, tmp_path: Path) -> Service:
    """A service on which a call that waits for a second load fails; V2 has a variable of its own."""
    variables = tmp_path / "v2.env"
    variables.write_text("NOVELTY=1\n")
    return start_service(
        ENGINE="session_pool_v2",
        V1_POOL_SIZE=SIZE,
        V2_POOL_SIZE=SIZE,
        V2_WORKER_ENV_FILE=variables,
        CHECKOUT_TIMEOUT_S=1,
        **code.settings,
    )


class Traffic:
    """Calls of a dear and of a cheap program, at a steady pace, for as long as the block lasts."""

    def __init__(self, service: Service, *programs: tuple[str, dict[str, Any]]) -> None:
        self._service = service
        self._programs = programs
        self._is_over = threading.Event()
        self.answers: list[tuple[str, str | None]] = []
        """The version and the error code of each answer."""
        self._threads = [threading.Thread(target=self._call, args=[number]) for number in range(CLIENTS)]

    def __enter__(self) -> "Traffic":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, count: int, version: str) -> None:
        """Waits for so many more answers of a version."""

        def answered() -> int:
            return sum(one == version for one, _ in self.answers)

        enough = answered() + count
        wait_until(lambda: answered() >= enough, f"{count} more calls on {version}")

    def failures(self) -> Counter[str]:
        """Counts the calls that failed, by their codes."""
        return Counter(code for _, code in self.answers if code is not None)

    def _call(self, number: int) -> None:
        program, inputs = self._programs[number % len(self._programs)]
        with httpx.Client(base_url=self._service.url, timeout=30) as client:
            while not self._is_over.wait(PACE_S):
                answer = client.post(f"/programs/{program}/execute", json={"inputs": inputs})
                code = None if answer.status_code == 200 else answer.json()["code"]
                self.answers.append((answer.headers["x-pool-version"], code))


def programs_of(service: Service) -> list[tuple[str, dict[str, Any]]]:
    """Creates a dear program and a cheap one, and calls both on V1 until its workers have loaded them."""
    dear = service.create("shop:Model", {}, "integer")
    cheap = service.create("shop:cheap", {"nonce": "string"})
    for _ in range(SIZE):  # where workers are not warmed, each of them loads at its first call
        with Traffic(service, (dear, {})) as traffic:
            traffic.wait_for(CLIENTS, "v1")
    return [(dear, {}), (cheap, {"nonce": "n"})]


def is_warm(service: Service, version: str) -> bool:
    """Tells if all workers of a pool are warm."""
    return bool(service.pool(version).get("warm", SIZE) == SIZE)


def test_a_restart(service: Service) -> None:
    """The service is ready once its workers have loaded what was used before; no call fails from then on."""
    programs = programs_of(service)
    assert service.stop() == 0
    service.start()
    with Traffic(service, *programs) as traffic:
        traffic.wait_for(100, "v1")
    assert not traffic.failures()
    wait_until(lambda: is_warm(service, "v1"), "V1's workers have loaded the cheap program, too")


def test_the_first_step_of_a_plan(service: Service) -> None:
    """V2's workers have loaded what V1 serves before V2 gets its first call."""
    programs = programs_of(service)
    wait_until(lambda: is_warm(service, "v2"), "V2's workers are warm")
    assert service.client.put("/rollout/plan", json=PLAN).status_code == 200
    with Traffic(service, *programs) as traffic:
        assert service.client.post("/rollout/start").status_code == 200
        traffic.wait_for(100, "v2")
    assert not traffic.failures()


def test_all_traffic_at_once(service: Service) -> None:
    """`rollout set 100` waits for V2's workers, which were just told of a new definition."""
    programs = programs_of(service)
    signature = {"inputs": [], "outputs": [{"name": "result", "type": "integer", "description": "new"}]}
    new = {"program_type": "python", "entrypoint": "shop:Model", "signature": signature}
    put = service.client.put(f"/programs/{programs[0][0]}", json=new, params={"pool_version": "v2"})
    assert put.is_success, put.text
    with Traffic(service, *programs) as traffic:
        answer = service.client.patch("/rollout", json={"canary_percent": 100})
        assert answer.status_code == 200, answer.text
        traffic.wait_for(100, "v2")
    assert not traffic.failures()


def test_a_rotation(service: Service) -> None:
    """V1's new workers have loaded what was used lately before they get their first call."""
    programs = programs_of(service)
    service.client.patch("/rollout", json={"canary_percent": 100})
    with Traffic(service, *programs) as traffic:
        traffic.wait_for(10, "v2")
        if any(code for _, code in traffic.answers):  # it is about what follows
            traffic.answers.clear()
        answer = service.client.post("/rollout/rotate", json={"unproven": True, "reason": "a test"})
        assert answer.status_code == 200, answer.text
        traffic.wait_for(100, "v1")
    assert not traffic.failures()


HANGS = "import time\ntime.sleep(600)\n"
ENDS = "import os\nos._exit(7)\n"
RAISES = "raise RuntimeError('no weights')\n"


@pytest.mark.parametrize("broken", [HANGS, ENDS, RAISES], ids=["hangs", "ends", "raises"])
def test_a_used_module_that_breaks_keeps_no_service_from_starting(
    start_service: StartService, code: UserCode, broken: str
) -> None:
    """Workers start without it, and serve others; its calls fail as ever, and it is in no quarantine before them."""
    (code.folder / "lib").mkdir()
    code.write("", "lib/__init__")
    code.write("def answer():\n    return 1\n", "lib/fine")
    code.write("def answer():\n    return 2\n", "lib/frail")
    settings = {**code.settings, "PROGRAM_MODULES": "lib"}
    service = start_service(POOLS="v2", V2_POOL_SIZE=2, WARM_TIMEOUT_S=4, LOAD_TIMEOUT_S=2, **settings)
    frail, fine = service.create("lib.frail:answer", {}, "integer"), service.create("lib.fine:answer", {}, "integer")
    for program in (frail, fine) * 3:
        assert service.execute(program).status_code == 200
    assert service.stop() == 0
    code.write(broken, "lib/frail")
    service.start()
    assert service.execute(fine).json()["outputs"] == {"result": 1}
    assert service.pool("v2")["warm"] == 2
    code_of_failure = service.execute(frail).json()["code"]
    assert code_of_failure in ("load_failed", "load_timeout", "worker_crashed")
    assert service.log().count("cannot be loaded ahead") <= 1
