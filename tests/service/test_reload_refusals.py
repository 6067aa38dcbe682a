"""Reloads that would break programs, or both pools amid a ramp, and the way back: no call is lost by any of them."""

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import StartService
from tests.service.test_reload import NEW, OLD, definition, on, results
from tests.support import preloaded
from tests.support.service import Service
from tests.support.user_code import UserCode
from tests.support.waiting import wait_until

TWO = """
def first():
    return "old"

class Second:
    def setup(self):
        self.word = "old"

    def __call__(self):
        return self.word
"""
BROKEN = {
    "renamed": TWO.replace("class Second", "class Other"),
    "setup": TWO.replace('self.word = "old"', "self.word = {}['old']"),
    "inputs": TWO.replace("__call__(self)", "__call__(self, article)"),
    "hangs": TWO.replace('self.word = "old"', "import time; time.sleep(600)"),
    "exits": TWO.replace('self.word = "old"', "import os; os._exit(3)"),
}
REASONS = {
    "renamed": "'shop' has no function or class 'Second'",
    "setup": "setup() of Second failed: KeyError: 'old'",
    "inputs": "shop:Second does not take the signature's inputs: missing a required argument: 'article'",
    "hangs": "shop:Second takes more than 2 s to load",
    "exits": "shop:Second ends the process on load (exit code 3)",
}


@pytest.fixture
def code(tmp_path: Path) -> UserCode:
    """A folder with the old code."""
    code = UserCode(tmp_path / "code")
    code.write(TWO)
    return code


@contextmanager
def callers(service: Service, *programs: str, version: str = "v2") -> Iterator[list[tuple[int, str]]]:
    """Clients that call the programs on a version for as long as the block lasts: the answers."""
    is_over = threading.Event()
    seen: list[tuple[int, str]] = []

    def call(program: str) -> None:
        with httpx.Client(base_url=service.url, timeout=30, headers=on(version)) as client:
            while not is_over.is_set():
                answer = client.post(f"/programs/{program}/execute", json={"inputs": {}})
                seen.append((answer.status_code, answer.json().get("outputs", {}).get("result", answer.text)))

    threads = [threading.Thread(target=call, args=(program,)) for program in (*programs, *programs)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: len(seen) > 20, "calls run")
        yield seen
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


def reload(service: Service, pool: str = "v2", **body: Any) -> httpx.Response:
    return service.client.post(f"/pools/{pool}/reload", json=body, timeout=60)


def workers(service: Service) -> dict[str, set[int]]:
    return {version: {one["pid"] for one in service.pool(version)["workers"]} for version in ("v1", "v2")}


def shown(service: Service, version: str = "v2") -> tuple[str, str | None]:
    """The revisions of the present and of the previous code."""
    pool = service.pool(version)
    return pool["programs_revision"], pool["previous_revision"]


def cli(service: Service, *words: str) -> tuple[int, str]:
    done = preloaded.run(["pools", *words, "--url", service.url], service.directory, {}, "", 60)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("fault", BROKEN)
def test_code_that_breaks_a_program_reaches_no_worker(start_service: StartService, code: UserCode, fault: str) -> None:
    """The module can be imported, and one program of it not be loaded: under load, no call notices the attempt."""
    service = start_service(LOAD_TIMEOUT_S=2, **code.settings)
    first, second = (service.create(f"shop:{name}", {}) for name in ("first", "Second"))
    before = workers(service), shown(service)
    with callers(service, first, second) as seen:
        code.write(BROKEN[fault])
        refused = reload(service)
        assert (refused.status_code, refused.json()["code"]) == (500, "load_failed")
        assert refused.json()["programs"] == [{"program_id": second, "reason": REASONS[fault]}]
        assert f"a program does not load with the new code ({second}: " in refused.json()["detail"]
        assert (workers(service), shown(service)) == before
        count = len(seen)
        wait_until(lambda: len(seen) > count + 20, "calls go on")
    assert set(seen) == {(200, "old")}
    assert service.pool("v2")["last_reload"] is None
    assert service.log().count("reload failed; the old code stays") == 1


def test_a_stop_waits_for_no_trial(start_service: StartService, code: UserCode) -> None:
    """A program that hangs while new code is tried would hold it up for LOAD_TIMEOUT_S."""
    service = start_service(**code.settings)
    service.create("shop:Second", {})
    code.write(BROKEN["hangs"].replace("import time; ", "open(FOLDER + '/begun', 'w'); import time; "))
    with ThreadPoolExecutor(1) as caller:
        answer = caller.submit(reload, service)
        wait_until((code.folder / "begun").exists, "the program is being tried")
        assert service.stop() == 0
        refused = answer.result()
    assert (refused.status_code, refused.json()["code"]) == (503, "pool_closed")
    assert "Traceback" not in service.log()
    assert "background task failed" not in service.log()


def test_a_forced_reload_goes_ahead_and_names_what_it_breaks(start_service: StartService, code: UserCode) -> None:
    """With a reason alone. Later a program that is broken already is held against nobody's code."""
    service = start_service(**code.settings)
    first, second = (service.create(f"shop:{name}", {}) for name in ("first", "Second"))
    code.write(NEW)
    assert reload(service, force=True).status_code == 422
    assert reload(service, force=True, reason=" ").status_code == 422
    done = reload(service, force=True, reason="Second is retired")
    assert done.status_code == 200, done.text
    last = done.json()["last_reload"]
    assert (last["forced"], last["reason"], last["by"], last["tried"], last["untried"]) == (
        True,
        "Second is retired",
        "anonymous",
        2,
        0,
    )
    assert last["broken"] == [{"program_id": second, "reason": REASONS["renamed"]}]
    assert (last["before"], last["after"]) == shown(service)[::-1]
    assert results(service, first) == {"v1": "old", "v2": "new"}
    assert service.execute(second, headers=on("v2")).json()["code"] == "load_failed"
    assert "Second is retired" in service.log()
    code.write(NEW.replace("new", "newer"))
    assert reload(service).json()["last_reload"]["broken"] == []
    assert results(service, first) == {"v1": "old", "v2": "newer"}


def test_each_version_is_asked_for_its_own_definition(start_service: StartService, code: UserCode) -> None:
    """V2 runs a definition of its own, which its new code lacks; V1 with the same code does without."""
    service = start_service(**code.settings)
    program = service.create("shop:first", {})
    own = service.client.put(f"/programs/{program}?pool_version=v2", json=definition("shop:Second"))
    assert own.status_code == 201, own.text
    code.write(OLD)
    assert reload(service, "v2").json()["programs"] == [{"program_id": program, "reason": REASONS["renamed"]}]
    assert reload(service, "v1").json()["last_reload"]["tried"] == 1


def test_code_is_tried_for_a_bounded_time(start_service: StartService, code: UserCode) -> None:
    """The answer counts what was not tried by then, which keeps no code from the workers."""
    service = start_service(RELOAD_CHECK_TIMEOUT_S=0.000001, **code.settings)
    service.create("shop:Second", {})
    code.write(NEW)
    last = reload(service).json()["last_reload"]
    assert (last["tried"], last["untried"]) == (0, 1)


@pytest.mark.parametrize("on_disk", ["other", "broken", "gone"])
def test_the_code_before_comes_back(start_service: StartService, code: UserCode, on_disk: str) -> None:
    """Under load, whatever is on disk by then; a second time goes forward again; after a restart there is none."""
    service = start_service(**code.settings)
    first = service.create("shop:first", {})
    refused = reload(service, previous=True)
    assert (refused.status_code, refused.json()["code"]) == (409, "rollback_impossible")
    assert "none has brought other code yet" in refused.json()["detail"]
    with callers(service, first) as seen:
        code.write(NEW)
        assert reload(service).status_code == 200
        wait_until(lambda: seen[-1] == (200, "new"), "the new code is called")
        new, old = shown(service)
        match on_disk:
            case "other":
                code.write(OLD.replace("old", "other"))
            case "broken":
                code.write("def first(:\n")
            case "gone":
                code.remove("shop.py")
        for before, after, output in ((new, old, "old"), (old, new, "new")):
            done = reload(service, previous=True, reason="the new code is wrong")
            assert done.status_code == 200, done.text
            last = done.json()["last_reload"]
            assert (last["previous"], last["before"], last["after"]) == (True, before, after)
            assert shown(service) == (after, before)
            count = len(seen)
            wait_until(lambda: len(seen) > count + 20, "calls go on")  # noqa: B023 - awaited here
            assert {result for _, result in seen[count + 4 :]} == {output}
    assert {status for status, _ in seen} == {200}
    if on_disk == "other":
        service.stop()
        service.start()
        assert reload(service, previous=True).status_code == 409


def test_a_worker_that_dies_has_the_code_that_came_back(start_service: StartService, code: UserCode) -> None:
    """The kept zygote forks as the other did."""
    service = start_service(**code.settings)
    first = service.create("shop:first", {})
    code.write(NEW)
    assert reload(service, force=True, reason="Second is retired").status_code == 200
    assert cli(service, "reload", "v2", "--previous")[0] == 0
    for pid in (killed := workers(service)["v2"]):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: killed.isdisjoint(workers(service)["v2"]) and service.pool("v2")["idle"] == 2, "others came")
    assert results(service, first) == {"v1": "old", "v2": "old"}


def test_commands_name_a_pool_and_the_way_back(start_service: StartService, code: UserCode) -> None:
    """A reload of nobody knows which pool is refused; what is kept, and who reloaded why, is shown."""
    service = start_service(**code.settings)
    assert cli(service, "reload") == (
        2,
        "poolshift: Invalid value for VERSION: name one pool, v1 or v2, or give --all (see 'poolshift pools reload "
        "--help')\n",
    )
    assert cli(service, "reload", "v2", "--all")[0] == 2
    assert cli(service, "reload", "v2", "--force")[0] == 2
    before, _ = shown(service)
    code.write(TWO.replace("old", "new"))
    status, told = cli(service, "reload", "v2", "--reason", "the new prices")
    after, _ = shown(service)
    assert (status, told) == (
        0,
        f"v2: 2 workers have the programs' code {after}\n"
        f"v2: the way back to {before}: poolshift pools reload v2 --previous\n",
    )
    _, told = cli(service, "show", "v2")
    assert f"by anonymous, from {before} to {after}: the new prices\n" in told
    assert f"v2: keeps the code before, {before} (`poolshift pools reload v2 --previous`)\n" in told
    assert "previous" not in cli(service, "show", "v1")[1]
    status, told = cli(service, "reload", "v1", "--previous")
    assert status == 1
    assert "rollback_impossible: v1 keeps no code from before a reload" in told


@pytest.mark.parametrize("ramp", ["percent", "plan"])
def test_both_pools_are_not_renewed_amid_a_ramp(start_service: StartService, code: UserCode, ramp: str) -> None:
    """Neither by SIGHUP nor by a command, since a rollback goes to V1; one pool is, and both with a word."""
    service = start_service(**code.settings)
    first = service.create("shop:first", {})
    if ramp == "percent":
        assert service.client.patch("/rollout", json={"canary_percent": 20}).is_success
        why = "V2 gets 20 %"
    else:
        plan = {"steps": [{"percent": 20, "hold_s": 600}]}
        assert service.client.put("/rollout/plan", json=plan).is_success
        assert service.client.post("/rollout/start").is_success
        why = "a plan is under way (ramping)"
    before = workers(service)
    code.write(TWO.replace("old", "new"))
    assert service.process is not None
    service.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "reload failed; the old code stays" in service.log(), "SIGHUP is refused")
    status, told = cli(service, "reload", "--all")
    assert status == 4
    assert f"plan_conflict: {why}: a reload of all pools would renew V1 too" in told
    assert why in service.log()
    assert workers(service) == before
    assert results(service, first) == {"v1": "old", "v2": "old"}
    assert cli(service, "reload", "v2")[0] == 0
    assert results(service, first) == {"v1": "old", "v2": "new"}
    assert cli(service, "reload", "--all", "--force", "--reason", "a hole is closed")[0] == 0
    assert results(service, first) == {"v1": "new", "v2": "new"}


def test_development_goes_on_with_what_is_broken(start_service: StartService, code: UserCode) -> None:
    """A function that is renamed while the service follows the disk: the log names the program that it breaks."""
    service = start_service(RELOAD="true", **code.settings)
    second = service.create("shop:Second", {})
    code.write(BROKEN["renamed"])
    created = service.client.post("/programs", json=definition("shop:Other"))
    assert created.status_code == 201, created.text
    assert results(service, created.json()["id"]) == {"v1": "old", "v2": "old"}
    assert "programs do not load with the new code" in service.log()
    assert service.pool("v2")["last_reload"]["broken"] == [{"program_id": second, "reason": REASONS["renamed"]}]


def test_all_pools_are_reloaded_without_a_ramp(start_service: StartService, code: UserCode) -> None:
    """At 0 % and at 100 %; a pool that cannot be reloaded keeps no other from it, and the answer names both."""
    service = start_service(**code.settings)
    first = service.create("shop:first", {})
    code.write(TWO.replace("old", "new"))
    status, told = cli(service, "reload", "--all")
    assert (status, told.count("workers have the programs' code")) == (0, 2)
    assert results(service, first) == {"v1": "new", "v2": "new"}
    assert service.client.put(f"/programs/{first}?pool_version=v2", json=definition("shop:Second")).status_code == 201
    code.write(OLD)
    assert service.client.patch("/rollout", json={"canary_percent": 100}).is_success
    refused = service.client.post("/pools/reload").json()
    assert refused["code"] == "load_failed"
    assert refused["detail"].startswith("the workers keep their code: v2: a program does not load")
    assert refused["detail"].endswith("; v1 is reloaded")
    assert results(service, first) == {"v1": "old", "v2": "new"}
