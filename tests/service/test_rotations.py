"""A rotation takes evidence, is taken back as quickly as a rollback, and outlasts settings that are not about it."""

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from config.api_keys import KeyFile, Scope, StoredKey, hash_key, new_key
from tests.conftest import StartService
from tests.support.interpreters import virtual_environment
from tests.support.replicas import said_once
from tests.support.service import Service, not_on_async_pool
from tests.support.waiting import wait_until

SHOP = """
import pathlib
import time

def hold(folder: str) -> str:
    pathlib.Path(folder, {name!r}).touch()
    while not pathlib.Path(folder, "go").exists():
        time.sleep(0.01)
    return {name!r}

def price() -> str:
    if pathlib.Path({broken!r}).exists():
        raise ValueError("broken")
    return {name!r}

def offer() -> str:
    return price() + " offer"
"""
V2 = "?pool_version=v2"

pytestmark = pytest.mark.skipif(os.environ.get("POOL_VERSION") == "v1", reason="is about both versions at once")


class Shop:
    """Two checkouts of a shop, of which the new one can be made to fail."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.broken = folder / "broken"
        for name, broken in (("old", folder / "never"), ("new", self.broken)):
            (folder / name).mkdir()
            (folder / name / "shop.py").write_text(SHOP.format(name=name, broken=str(broken)))

    def settings(self, **more: Any) -> dict[str, Any]:
        checkouts = {"PROGRAMS_DIR": self.folder / "old", "V2_PROGRAMS_DIR": self.folder / "new"}
        return {"PROGRAM_MODULES": "shop", "ENGINE": "session_pool_v2", "POOL_SIZE": 2} | checkouts | more


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    folder = tmp_path / "shop"
    folder.mkdir()
    return Shop(folder)


def create(service: Service, function: str = "price") -> str:
    body = {"program_type": "python", "entrypoint": f"shop:{function}", "id": function}
    answer = service.client.post("/programs", json=body)
    assert answer.status_code == 201, answer.text
    return function


def served(service: Service, program: str = "price", **headers: str) -> tuple[str, str]:
    """The version that served a call, and its answer."""
    answer = service.execute(program, headers={"x-pool-version": headers["version"]} if headers else None)
    assert answer.status_code == 200, answer.text
    return answer.headers["x-pool-version"], answer.json()["outputs"]["result"]


def set_percent(service: Service, percent: float) -> None:
    answer = service.client.patch("/rollout", json={"canary_percent": percent})
    assert answer.status_code == 200, answer.text


def refused(answer: httpx.Response, status: int = 409, code: str = "plan_conflict") -> str:
    """The detail of a refusal."""
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    detail: str = answer.json()["detail"]
    return detail


def rotate(service: Service, **body: Any) -> httpx.Response:
    return service.client.post("/rollout/rotate", json=body)


def rotated(service: Service, percent: float = 100) -> None:
    """Has the service rotate from a percentage, by an admin's word."""
    wait_until(lambda: service.pool("v2")["ready"], "V2 is ready")
    set_percent(service, percent)
    answer = rotate(service, unproven=True, reason="a test")
    assert answer.status_code == 200, answer.text


def unrotated(service: Service) -> dict[str, Any]:
    answer = service.client.post("/rollout/unrotate", json={"reason": "it fails"})
    assert answer.status_code == 200, answer.text
    view: dict[str, Any] = answer.json()
    return view


# --- evidence


def test_an_aborted_v2_needs_an_admins_word(start_service: StartService, shop: Shop, tmp_path: Path) -> None:
    """The refusal names the abort, after a restart too; `unproven` takes the scope admin and a reason."""
    keys = {scope: new_key() for scope in (Scope.EXECUTE, Scope.OPERATE, Scope.ADMIN)}
    stored = [StoredKey(name=f"the {one}", hash=hash_key(key), scopes=frozenset({one})) for one, key in keys.items()]
    (tmp_path / "keys.json").write_text(KeyFile(keys=tuple(stored)).model_dump_json())
    service = start_service(**shop.settings(API_KEYS_FILE=tmp_path / "keys.json"))

    service.client.headers["authorization"] = f"Bearer {keys[Scope.ADMIN]}"

    def ask(scope: Scope, path: str, **body: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {keys[scope]}"}
        return service.client.request(
            "PUT" if path == "plan" else "POST", f"/rollout/{path}", json=body, headers=headers
        )

    assert ask(Scope.ADMIN, "plan", steps=[{"percent": 10, "hold_s": 3600}]).is_success
    assert ask(Scope.OPERATE, "start").is_success
    assert ask(Scope.OPERATE, "abort", reason="it is wrong").is_success
    told = "this V2 was aborted by the operate at "
    assert told in refused(ask(Scope.OPERATE, "rotate"))
    assert service.stop() == 0
    service.start()
    wait_until(lambda: service.pool("v2")["ready"], "V2 is ready")
    detail = refused(ask(Scope.OPERATE, "rotate", reason="all the same"))
    assert told in detail
    assert ": it is wrong" in detail
    assert "admin" in refused(ask(Scope.OPERATE, "rotate", unproven=True, reason="all the same"), 403, "forbidden")
    for reason in (None, " "):
        without = ask(Scope.ADMIN, "rotate", unproven=True, reason=reason)
        assert "`unproven` needs a reason" in refused(without, 422, "invalid_request")
        assert [one["at"] for one in without.json()["errors"]] == ["body.reason"]
    answer = ask(Scope.ADMIN, "rotate", unproven=True, reason="all the same")
    assert answer.status_code == 200, answer.text
    assert answer.json()["reason"].startswith("unproven: all the same (")
    assert "V1 is what V2 is already" in refused(ask(Scope.ADMIN, "rotate"))


def test_calls_are_evidence(start_service: StartService, shop: Shop) -> None:
    """They count over SIGKILL, not those that a header forces; other code begins at 0, and a rollback ends it."""
    service = start_service(**shop.settings(ROTATE_MIN_CALLS=30))
    program = create(service)
    for _ in range(40):
        served(service, program, version="v2")
    set_percent(service, 100)
    for _ in range(20):
        served(service, program)
    assert "it has served 20 calls with 0 faults" in refused(rotate(service))
    service.stop(signal.SIGKILL)
    service.start()
    wait_until(lambda: service.pool("v2")["ready"], "V2 is ready")
    assert "it has served 20 calls with 0 faults" in refused(rotate(service))
    for _ in range(10):
        served(service, program)
    file = shop.folder / "new" / "shop.py"
    file.write_text(file.read_text() + "\n# another build\n")
    assert service.client.post("/pools/v2/reload").is_success
    assert "it has served 0 calls" in refused(rotate(service))
    for _ in range(30):
        served(service, program)
    answer = rotate(service)
    assert (answer.status_code, answer.json()["canary_percent"]) == (200, 0), answer.text
    assert served(service, program) == ("v1", "new")


def test_faults_and_rollbacks_speak_against_v2(start_service: StartService, shop: Shop) -> None:
    """More than 1 % of faults of its own; and a rollback by hand, although the calls went well before."""
    service = start_service(**shop.settings(ROTATE_MIN_CALLS=20))
    program = create(service)
    wait_until(lambda: service.pool("v2")["ready"], "V2 is ready")
    set_percent(service, 100)
    for _ in range(30):
        served(service, program)
    shop.broken.touch()
    assert service.execute(program).status_code == 500
    assert "31 calls with 1 faults of its own, more than 1 %" in refused(rotate(service))
    service.client.post("/rollout/rollback", json={"reason": "it fails"})
    assert "this V2 was rolled back by anonymous at " in refused(rotate(service))
    set_percent(service, 100)
    assert ": it fails" in refused(rotate(service))


def test_no_plan_takes_an_abort_back(start_service: StartService, shop: Shop) -> None:
    """Neither its start, nor a person's promotion, nor a plan that promotes without evidence; calls since then do."""
    service = start_service(**shop.settings(ROTATE_MIN_CALLS=200))
    program = create(service)
    wait_until(lambda: service.pool("v2")["ready"], "V2 is ready")
    set_percent(service, 100)
    for _ in range(200):
        served(service, program)
    set_percent(service, 0)
    plan = {"steps": [{"percent": 50, "hold_s": 0, "min_calls": 1}], "on_inconclusive": "advance", "max_wait_s": 0.1}
    assert service.client.put("/rollout/plan", json=plan).is_success
    for path in ("start", "abort", "start", "promote"):
        assert service.client.post(f"/rollout/{path}", json={"reason": f"for the {path}"}).is_success
    told = "this V2 was aborted by anonymous at "
    assert told in refused(rotate(service))
    service.stop(signal.SIGKILL)
    service.start()
    wait_until(lambda: service.pool("v2")["ready"], "V2 is ready")
    assert told in refused(rotate(service))
    set_percent(service, 0)
    answer = service.client.post("/rollout/start")
    assert answer.is_success, answer.text

    def is_promoted() -> bool:
        served(service, program)
        return bool(service.client.get("/rollout/status").json()["state"] == "promoted")

    wait_until(is_promoted, "the plan promotes V2")
    refusal = refused(rotate(service))
    assert told in refusal
    assert ": for the abort; since then it has served " in refusal
    for _ in range(200):
        served(service, program)
    answer = rotate(service)
    assert answer.status_code == 200, answer.text


def test_each_definition_of_v2s_own_is_to_be_tried(start_service: StartService, shop: Shop) -> None:
    """The refusal names those that no call has tried, whatever the calls of the others; forced calls try nothing."""
    service = start_service(**shop.settings(ROTATE_MIN_CALLS=5))
    programs = [create(service, "price"), create(service, "offer")]
    for program in programs:
        body = {"program_type": "python", "entrypoint": f"shop:{program}", "instructions": "V2's"}
        assert service.client.put(f"/programs/{program}{V2}", json=body).status_code == 201
    wait_until(lambda: service.pool("v2")["ready"], "V2 is ready")
    set_percent(service, 100)
    served(service, "offer", version="v2")
    for _ in range(10):
        served(service, "price")
    assert "no call has tried V2's own definition of offer." in refused(rotate(service))
    served(service, "offer")
    answer = rotate(service)
    assert answer.status_code == 200, answer.text


# --- the way back


class Load:
    """Calls from two threads, for as long as the block lasts: every answer in order."""

    def __init__(self, service: Service, program: str) -> None:
        self.answers: list[str] = []
        self._url = f"{service.url}/programs/{program}/execute"
        self._ends = threading.Event()
        self._threads = [threading.Thread(target=self._call) for _ in range(2)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, calls: int) -> None:
        wanted = len(self.answers) + calls
        wait_until(lambda: len(self.answers) >= wanted, f"{calls} more calls")

    def _call(self) -> None:
        with httpx.Client(timeout=30) as client:
            while not self._ends.is_set():
                answer = client.post(self._url, json={"inputs": {}}).json()
                self.answers.append(answer["outputs"]["result"] if "outputs" in answer else answer["code"])


def test_a_failing_rotation_is_taken_back(start_service: StartService, shop: Shop) -> None:
    """Under load, with V1's code changed on disk meanwhile: all calls go to the code that V1 had, and no call is lost.

    The history says so, the V2 that failed is not rotated to again, and there is nothing more to take back.
    """
    service = start_service(**shop.settings(ROTATE_MIN_CALLS=10))
    program = create(service)
    nothing = service.client.post("/rollout/unrotate")
    assert "there was no rotation" in refused(nothing)
    wait_until(lambda: service.pool("v2")["ready"], "V2 is ready")
    set_percent(service, 100)
    for _ in range(10):
        served(service, program)
    assert rotate(service).status_code == 200
    with Load(service, program) as load:
        load.wait_for(20)
        shop.broken.touch()
        (shop.folder / "old" / "shop.py").write_text("this is no Python\n")
        load.wait_for(20)
        assert load.answers[-1] == "program_error"
        view = unrotated(service)
        load.wait_for(2)  # those that ran at that moment
        since = len(load.answers)
        load.wait_for(50)
    assert set(load.answers) == {"new", "program_error", "old"}
    assert set(load.answers[since:]) == {"old"}
    assert (view["canary_percent"], view["source"], view["kept_programs"]) == (0, "rotation", [])
    assert view["reason"] == "unrotated: V1 is what it was before revision 3: it fails"
    assert service.client.get("/rollout/history").json()["items"][0]["reason"] == view["reason"]
    assert "was taken back already, by anonymous" in refused(service.client.post("/rollout/unrotate"))
    assert "was V1 after a rotation, which was taken back by anonymous" in refused(rotate(service))


def test_a_call_that_waits_goes_to_the_former_v1(start_service: StartService, shop: Shop, tmp_path: Path) -> None:
    """The one that runs ends where it is, as at a rollback; the one behind it does not wait for that."""
    service = start_service(**shop.settings(V2_POOL_SIZE=1))
    program = create(service, "hold")
    rotated(service)
    with ThreadPoolExecutor(2) as callers:
        running = callers.submit(served_from, service, program, tmp_path)
        wait_until((tmp_path / "new").exists, "V1 runs the first call")
        waiting = callers.submit(served_from, service, program, tmp_path)
        wait_until(lambda: service.pool("v1")["queue_depth"] == 1, "the second call waits")
        unrotated(service)
        wait_until((tmp_path / "old").exists, "the former V1 runs the second call")
        (tmp_path / "go").touch()
        assert (running.result(), waiting.result()) == ("new", "old")


def served_from(service: Service, program: str, folder: Path) -> str:
    answer = service.execute(program, inputs={"folder": str(folder)})
    assert answer.status_code == 200, answer.text
    result: str = answer.json()["outputs"]["result"]
    return result


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_rotation_is_taken_back_after_a_restart(
    start_service: StartService, shop: Shop, number: signal.Signals
) -> None:
    """The former specification is in the store; what is taken back stays so over the next restart."""
    service = start_service(**shop.settings())
    program = create(service)
    rotated(service)
    assert served(service, program) == ("v1", "new")
    service.stop(number)
    service.start()
    assert served(service, program) == ("v1", "new")
    shop.broken.touch()
    unrotated(service)
    assert served(service, program) == ("v1", "old")
    service.stop(number)
    service.start()
    assert served(service, program) == ("v1", "old")
    assert service.pool("v1")["programs_dir"] == str(shop.folder / "old")


def test_broken_code_on_disk_is_not_put_back(start_service: StartService, shop: Shop) -> None:
    """After a restart the former code is read from disk: what it does not load is named, and takes an admin's word.

    A definition that V1 gets back is tried, and not the one that the rotation gave it. The former code as it was is
    taken at once; after that the refusal of a second undo names the ways out of a V1 that fails.
    """
    service = start_service(**shop.settings())
    body = {"program_type": "python", "entrypoint": "shop:price"}
    for name in ("price", "own"):
        assert service.client.put(f"/programs/{name}", json=body).status_code == 201
    assert service.client.put(f"/programs/own{V2}", json=body | {"entrypoint": "shop:offer"}).status_code == 201
    rotated(service)
    service.stop()
    old = shop.folder / "old" / "shop.py"
    code = old.read_text()
    old.write_text("this is no Python\n")
    service.start()
    answer = service.client.post("/rollout/unrotate", json={"reason": "it fails"})
    detail = refused(answer, 500, "load_failed")
    assert f"2 programs do not load with the code that is in {shop.folder / 'old'} now (" in detail
    assert "`force`" in detail
    assert {one["program_id"] for one in answer.json()["programs"]} == {"own", "price"}
    assert "`force` needs a reason" in refused(
        service.client.post("/rollout/unrotate", json={"force": True}), 422, "invalid_request"
    )
    assert served(service, "price") == ("v1", "new")
    old.write_text(code.replace("def offer", "def no_offer"))  # as before, but for what V2's own definition names
    forced = service.client.post("/rollout/unrotate", json={"force": True, "reason": "V2 is worse"})
    assert forced.status_code == 200, forced.text
    assert forced.json()["reason"].startswith("forced, unrotated: V1 is what it was before revision ")
    assert served(service, "own") == ("v1", "old")
    told = refused(service.client.post("/rollout/unrotate"))
    assert "was taken back already" in told
    assert "`poolshift rollout set 100`" in told
    assert "`poolshift rollout rotate --unproven`" in told


def test_the_former_definition_is_tried_on_the_former_code(start_service: StartService, shop: Shop) -> None:
    """The code that V1 gets back need not know what only V2's own definition names."""
    service = start_service(**shop.settings())
    old, body = shop.folder / "old" / "shop.py", {"program_type": "python", "entrypoint": "shop:price"}
    old.write_text(old.read_text().replace("def offer", "def no_offer"))
    assert service.client.post("/pools/v1/reload").is_success
    wait_until(lambda: service.pool("v2")["ready"], "V2 is ready")
    assert service.client.put("/programs/own", json=body).status_code == 201
    own = service.client.put(f"/programs/own{V2}", json=body | {"entrypoint": "shop:offer"})
    assert own.status_code == 201, own.text
    rotated(service)
    service.stop()
    service.start()
    unrotated(service)
    assert served(service, "own") == ("v1", "old")


SLOW_START = """
import time
import pathlib
pathlib.Path({folder!r}, "starting").touch()
while not pathlib.Path({folder!r}, "go").exists():
    time.sleep(0.01)
"""


def starts_slowly(service: Service, shop: Shop, folder: Path) -> None:
    """Has the former V1 of a rotation wait at its start for the file `go` in `folder`; the service starts again."""
    service.stop()
    old = shop.folder / "old" / "shop.py"
    old.write_text(SLOW_START.format(folder=str(folder)) + old.read_text())
    service.start()


def test_the_history_tells_what_a_rotation_has_changed(start_service: StartService, shop: Shop, tmp_path: Path) -> None:
    """Also of one that has waited for an undo: when it was asked for, V1 was what V2 is."""
    service = start_service(**shop.settings(V1_PRELOAD="shop"))
    create(service)
    rotated(service)
    starts_slowly(service, shop, tmp_path)
    wait_until(lambda: service.pool("v2")["ready"], "V2 is ready")
    with ThreadPoolExecutor(2) as operators:
        undo = operators.submit(unrotated, service)
        wait_until((tmp_path / "starting").exists, "V1's zygote starts")
        with httpx.Client(base_url=service.url, timeout=60) as other:
            body = {"unproven": True, "reason": "both"}
            again = operators.submit(other.post, "/rollout/rotate", json=body)
            wait_until(lambda: service.client.get("/rollout").is_success, "the service has answered something else")
            (tmp_path / "go").touch()
            undo.result()
            answer = again.result()
    assert answer.status_code == 200, answer.text
    assert f"programs_dir {shop.folder / 'old'} → {shop.folder / 'new'}" in answer.json()["reason"]


@pytest.mark.parametrize(
    ("meanwhile", "body", "taken"),
    [
        ("rollback", {"reason": "at once"}, True),
        ("set", {"canary_percent": 0}, True),
        ("set", {"canary_percent": 5}, False),
    ],
)
def test_an_undo_goes_on_from_a_rollback(
    start_service: StartService, shop: Shop, tmp_path: Path, *, meanwhile: str, body: dict[str, Any], taken: bool
) -> None:
    """One that comes while V1's workers start. A share that V2 has got meanwhile is told, and V1 stays as it is."""
    service = start_service(**shop.settings(V1_PRELOAD="shop"))
    program = create(service)
    rotated(service)
    set_percent(service, 50)
    starts_slowly(service, shop, tmp_path)
    with ThreadPoolExecutor(1) as operator:
        undo = operator.submit(service.client.post, "/rollout/unrotate", json={"reason": "it fails"})
        wait_until((tmp_path / "starting").exists, "V1's zygote starts")
        with httpx.Client(base_url=service.url, timeout=30) as other:
            path = "/rollout/rollback" if meanwhile == "rollback" else "/rollout"
            assert other.request("POST" if meanwhile == "rollback" else "PATCH", path, json=body).is_success
        (tmp_path / "go").touch()
        answer = undo.result()
    if taken:
        assert answer.status_code == 200, answer.text
        assert served(service, program) == ("v1", "old")
    else:
        told = refused(answer, 412, "stale_revision")
        assert "V2 has got 5 % meanwhile" in told
        assert "V1 is unchanged" in told
        assert service.pool("v1")["programs_dir"] == str(shop.folder / "new")


def test_definitions_are_v2s_own_again(start_service: StartService, shop: Shop) -> None:
    """All but that of a program that was changed since: it keeps what it has, and the answer names it."""
    service = start_service(**shop.settings())
    for name in ("one", "two"):
        body = {"program_type": "python", "entrypoint": "shop:price"}
        assert service.client.put(f"/programs/{name}", json=body).status_code == 201
        own = service.client.put(f"/programs/{name}{V2}", json=body | {"entrypoint": "shop:offer"})
        assert own.status_code == 201, own.text
    rotated(service)
    assert [served(service, name) for name in ("one", "two")] == [("v1", "new offer")] * 2
    changed = service.client.put("/programs/two", json={"program_type": "python", "entrypoint": "shop:price"})
    assert changed.status_code == 200, changed.text
    assert unrotated(service)["kept_programs"] == ["two"]
    for _ in range(2):
        found = {name: [served(service, name, version=one)[1] for one in ("v1", "v2")] for name in ("one", "two")}
        assert found == {"one": ["old", "new offer"], "two": ["old", "new"]}
        service.stop()
        service.start()
        wait_until(lambda: service.pool("v2")["ready"], "V2 is ready")


def test_a_plan_under_way_comes_first(start_service: StartService, shop: Shop) -> None:
    """Unrotate does not pull V1 from under a plan; a second rotation is the one that is taken back."""
    service = start_service(**shop.settings())
    program = create(service)
    rotated(service)
    service.stop()
    service._settings["V2_PROGRAMS_DIR"] = str(shop.folder / "third")
    (shop.folder / "third").mkdir()
    (shop.folder / "third" / "shop.py").write_text(SHOP.format(name="third", broken="/nowhere"))
    service.start()
    wait_until(lambda: service.pool("v2")["ready"], "V2 is ready")
    assert service.client.put("/rollout/plan", json={"steps": [{"percent": 10, "hold_s": 3600}]}).is_success
    assert service.client.post("/rollout/start").is_success
    assert "a plan is under way (ramping): abort it first" in refused(service.client.post("/rollout/unrotate"))
    assert service.client.post("/rollout/abort").is_success
    rotated(service, 0)
    assert served(service, program) == ("v1", "third")
    unrotated(service)
    assert served(service, program) == ("v1", "new")
    assert "taken back already" in refused(service.client.post("/rollout/unrotate"))
    service.stop()
    service.start()
    assert served(service, program) == ("v1", "new")


# --- settings


def test_a_rotation_outlasts_settings_that_are_not_about_it(start_service: StartService, shop: Shop) -> None:
    """Modules that are preloaded, sizes and limits: V1 gets them, and stays what the rotation made it."""
    service = start_service(**shop.settings())
    program = create(service)
    rotated(service)
    for name, value in (("PRELOAD", "json"), ("V1_POOL_SIZE", "3"), ("WORKER_MAX_EXECUTIONS", "1000")):
        assert service.stop() == 0
        service._settings[name] = value
        service.start()
        assert served(service, program) == ("v1", "new"), name
    wait_until(lambda: len(service.pool("v1")["workers"]) == 3, "V1 has its size")


def question(service: Service) -> str:
    """The one line that a start ends with, or each replica's."""
    before = len(service.log())
    service.start(wait=False)
    assert service.wait_for_end() == 2
    return said_once(service.log()[before:], "rotation")[0]


def test_another_v1_is_a_question(start_service: StartService, shop: Shop, tmp_path: Path) -> None:
    """The start ends with one line that names the variable and both values; `ROTATION` or the old value answers it."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "shop.py").write_text(SHOP.format(name="other", broken="/nowhere"))
    service = start_service(**shop.settings())
    program = create(service)
    rotated(service)
    assert service.stop() == 0
    service._settings["PROGRAMS_DIR"] = str(other)
    line = question(service)
    assert f"PROGRAMS_DIR asks for {other}, and it gave V1 {shop.folder / 'new'}" in line
    assert "poolshift rollout unrotate" in line
    assert "ROTATION=keep" in line
    service._settings["PROGRAMS_DIR"] = str(shop.folder / "old")
    service.start()
    assert served(service, program) == ("v1", "new")
    assert service.stop() == 0
    service._settings |= {"PROGRAMS_DIR": str(other), "ROTATION": "keep", "V1_POOL_SIZE": "3"}
    service.start()
    assert served(service, program) == ("v1", "new")
    assert service.stop() == 0
    del service._settings["ROTATION"]
    service.start()  # the new folder is the environment's of the rotation by now, the size is as it was
    assert served(service, program) == ("v1", "new")
    assert len(service.pool("v1")["workers"]) == 3
    assert service.stop() == 0
    service._settings["V1_PYTHON"] = str(virtual_environment(tmp_path / "python", "python3", "msgspec>=0.22"))
    line = question(service)
    assert f"V1_PYTHON asks for {service._settings['V1_PYTHON']}, and it gave V1 none" in line
    service._settings["ROTATION"] = "forget"
    service.start()
    assert served(service, program) == ("v1", "other")
    assert "V1 has the environment's specification again: ROTATION=forget" in service.log()


def test_a_forgotten_rotation_is_over(start_service: StartService, shop: Shop) -> None:
    """The history says who has forgotten it and why, there is no way back, and no later start asks for a word."""
    other = shop.folder / "other"
    other.mkdir()
    (other / "shop.py").write_text(SHOP.format(name="other", broken="/nowhere"))
    service = start_service(**shop.settings())
    program = create(service)
    rotated(service)
    service.stop()
    service._settings |= {"PROGRAMS_DIR": str(other), "ROTATION": "forget"}
    service.start()
    (newest, *_) = service.client.get("/rollout/history").json()["items"]
    assert (newest["source"], newest["updated_by"], newest["to_percent"]) == ("rotation", "start", 0)
    told = "ROTATION=forget: V1 is what the environment says, and not what revision 3 made it (PROGRAMS_DIR asks for "
    assert newest["reason"].startswith(told)
    assert "was forgotten by a start with ROTATION=forget" in refused(service.client.post("/rollout/unrotate"))
    service.stop()
    del service._settings["ROTATION"]
    service.start()
    assert served(service, program) == ("v1", "other")
    assert service.client.get("/rollout/history").json()["items"][0] == newest


def test_a_setting_that_is_gone_is_told_so(start_service: StartService, shop: Shop, tmp_path: Path) -> None:
    """The question at the start does not call an interpreter "none"."""
    python = str(virtual_environment(tmp_path / "python", "python3", "msgspec>=0.22"))
    service = start_service(**shop.settings(V2_PYTHON=python, V1_PYTHON=python))
    create(service)
    rotated(service)
    service.stop()
    del service._settings["V1_PYTHON"]
    assert f"V1_PYTHON is unset now, and it gave V1 {python}" in question(service)


@not_on_async_pool("the environment of every service names the engine")
def test_an_environment_that_agrees_asks_nothing(start_service: StartService, shop: Shop) -> None:
    """The operator has moved the settings on, as after a finished migration: from then on they count alone."""
    service = start_service(**shop.settings())
    program = create(service)
    rotated(service)
    assert service.stop() == 0
    service._settings["PROGRAMS_DIR"] = str(shop.folder / "new")
    service.start()
    assert served(service, program) == ("v1", "new")
    assert service.stop() == 0
    service._settings["PROGRAMS_DIR"] = str(shop.folder / "old")
    service.start()
    assert served(service, program) == ("v1", "old")


def test_the_model_of_a_rotation_is_a_question_too(start_service: StartService, shop: Shop) -> None:
    """V1 got V2's model; another one for V1 in the environment is named beside it, and no key is shown."""
    service = start_service(**shop.settings())
    body = {"model": "openai/new", "api_base": "http://127.0.0.1:9/v1", "api_key": "sk-secret"}
    assert service.client.put(f"/lm{V2}", json=body).is_success
    rotated(service)
    assert service.client.get("/lm?pool_version=v1").json()["model"] == "openai/new"
    assert service.stop() == 0
    service._settings["V1_LM_MODEL"] = "openai/third"
    line = question(service)
    assert "V1_LM_MODEL asks for openai/third, and it gave V1 openai/new" in line
    assert "sk-" not in line
    service._settings["ROTATION"] = "keep"
    service.start()
    assert service.client.get("/lm?pool_version=v1").json()["model"] == "openai/new"
    assert not unrotated(service)["kept_lm"]
    shown = [service.client.get(f"/lm?pool_version={version}").json()["model"] for version in ("v1", "v2")]
    assert shown == ["openai/third", "openai/new"]
