"""New code without a restart: workers are replaced one after another, and no code comes past the pools' workers."""

import os
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from config.api_keys import KeyFile, Scope, StoredKey, hash_key, new_key
from tests.conftest import StartService
from tests.support.service import POOLSHIFT, Service
from tests.support.tools import tool
from tests.support.user_code import UserCode
from tests.support.waiting import wait_until

OLD = """
def first():
    return "old"
"""
NEW = """
def first():
    return "new"

def second():
    return "new"
"""
POOLS = ("v1", "v2")


@pytest.fixture
def code(tmp_path: Path) -> UserCode:
    """A folder with the old code."""
    code = UserCode(tmp_path / "code")
    code.write(OLD)
    return code


def definition(entrypoint: str) -> dict[str, Any]:
    signature = {"inputs": [], "outputs": [{"name": "result", "type": "string"}]}
    return {"program_type": "python", "entrypoint": entrypoint, "signature": signature}


def creation(service: Service, entrypoint: str) -> httpx.Response:
    return service.client.post("/programs", json=definition(entrypoint))


def on(version: str) -> dict[str, str]:
    return {"x-pool-version": version}


def results(service: Service, program: str) -> dict[str, str]:
    """The program's output on each version."""
    answers = {version: service.execute(program, headers=on(version)) for version in POOLS}
    return {version: answer.json()["outputs"]["result"] for version, answer in answers.items()}


def revisions(service: Service) -> dict[str, set[str]]:
    """The revisions of the code that the workers of each pool have, and new workers get."""
    pools = {version: service.pool(version) for version in POOLS}
    return {
        version: {pool["programs_revision"], *(worker["programs_revision"] for worker in pool["workers"])}
        for version, pool in pools.items()
    }


def test_new_code_needs_a_reload(start_service: StartService, code: UserCode) -> None:
    """Creation is refused, with the command, until both pools have the code; the old program then runs the new code."""
    service = start_service(**code.settings)
    program = service.create("shop:first", {})
    assert results(service, program) == {"v1": "old", "v2": "old"}
    (before,) = revisions(service)["v1"]
    assert revisions(service) == {"v1": {before}, "v2": {before}}
    code.write(NEW)
    for reloaded in ((), ("v1",)):
        for version in reloaded:
            assert service.client.post(f"/pools/{version}/reload").status_code == 200
        refused = creation(service, "shop:second")
        assert (refused.status_code, refused.json()["code"]) == (409, "code_outdated")
        assert "poolshift pools reload" in refused.json()["detail"]
    assert service.client.post("/pools/v2/reload").status_code == 200
    created = creation(service, "shop:second")
    assert created.status_code == 201, created.text
    assert results(service, created.json()["id"]) == {"v1": "new", "v2": "new"}
    assert results(service, program) == {"v1": "new", "v2": "new"}
    (after,) = revisions(service)["v1"]
    assert after != before
    assert revisions(service) == {"v1": {after}, "v2": {after}}


def test_new_code_reaches_no_worker_by_itself(start_service: StartService, code: UserCode) -> None:
    """Neither one that has not loaded the program yet, nor one that takes a dead one's place; nor does its loss."""
    service = start_service(**code.settings)
    program = service.create("shop:first", {})
    before = revisions(service)
    code.write(NEW)
    assert results(service, program) == {"v1": "old", "v2": "old"}
    code.remove("shop.py")
    killed = set(service.worker_pids())
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: killed.isdisjoint(service.worker_pids()), "their deaths are noticed")
    wait_until(lambda: all(service.pool(version)["idle"] == 2 for version in POOLS), "the pools are whole")
    assert results(service, program) == {"v1": "old", "v2": "old"}
    assert revisions(service) == before
    assert service.client.get("/pools/diff").json()["summary"] == "engine session_pool → session_pool_v2"


def test_a_helper_beside_the_module_is_code_too(start_service: StartService, code: UserCode) -> None:
    """A change of what the module imports asks for a reload like a change of the module."""
    code.write("def price():\n    return 1\n", "helper")
    service = start_service(**code.settings)
    code.write("def price():\n    return 2\n", "helper")
    assert creation(service, "shop:first").json()["code"] == "code_outdated"


def test_a_change_that_python_cannot_see_runs_after_a_reload(start_service: StartService, code: UserCode) -> None:
    """The new source has the size and the time of the old one, by which Python takes cached bytecode for current."""

    def write(result: str) -> None:
        code.write(OLD.replace("old", result))
        os.utime(code.folder / "shop.py", (1_700_000_000, 1_700_000_000))

    write("old")
    service = start_service(**code.settings)
    program = service.create("shop:first", {})
    assert results(service, program) == {"v1": "old", "v2": "old"}
    write("new")
    for version in POOLS:
        assert service.client.post(f"/pools/{version}/reload").status_code == 200
    assert results(service, program) == {"v1": "new", "v2": "new"}


@pytest.mark.parametrize("way", ["request", "command", "signal"])
def test_no_call_is_lost_by_a_reload(start_service: StartService, code: UserCode, version: str, way: str) -> None:
    """Callers go on while all workers are replaced; sessions stay, and each answer is of the old code or the new."""
    service = start_service(POOL_VERSION=version, **code.settings)
    program = service.create("shop:first", {})
    old_workers = {worker["pid"] for worker in service.pool(version)["workers"]}
    is_over = threading.Event()
    seen: list[tuple[int, str]] = []

    def call(number: int) -> None:
        with httpx.Client(base_url=service.url, timeout=30) as client:
            while not is_over.is_set():
                body = {"inputs": {}, "session_id": f"session-{number}"}
                answer = client.post(f"/programs/{program}/execute", json=body)
                seen.append((answer.status_code, answer.json().get("outputs", {}).get("result", answer.text)))

    callers = [threading.Thread(target=call, args=(number,)) for number in range(4)]
    for caller in callers:
        caller.start()
    try:
        wait_until(lambda: len(seen) > 20, "calls run")
        code.write(NEW)
        _reload(service, version, way)
        wait_until(lambda: seen[-1] == (200, "new"), "the new code is called")
        wait_until(
            lambda: not old_workers & {worker["pid"] for worker in service.pool(version)["workers"]},
            "all workers are replaced",
        )
    finally:
        is_over.set()
        for caller in callers:
            caller.join()
    assert {status for status, _ in seen} == {200}
    assert {result for _, result in seen} == {"old", "new"}
    assert len(service.client.get("/sessions").json()["items"]) == 4


def _reload(service: Service, version: str, way: str) -> None:
    assert service.process is not None
    if way == "request":
        assert service.client.post(f"/pools/{version}/reload").status_code == 200
    elif way == "command":
        done = subprocess.run(
            [*POOLSHIFT, "pools", "reload", version, "--url", service.url], capture_output=True, text=True, check=True
        )
        assert done.stdout.startswith(f"{version}: 2 workers have the programs' code ")
    else:
        service.process.send_signal(signal.SIGHUP)


def test_code_that_cannot_be_preloaded_replaces_nothing(start_service: StartService, code: UserCode) -> None:
    """The reload fails with the reason, and the old workers serve on."""
    service = start_service(PRELOAD="shop", **code.settings)
    program = service.create("shop:first", {})
    workers = set(service.worker_pids())
    code.write("def first(:\n")
    answer = service.client.post("/pools/v1/reload")
    assert (answer.status_code, answer.json()["code"]) == (500, "load_failed")
    assert "'shop' cannot be imported: SyntaxError" in answer.json()["detail"]
    assert set(service.worker_pids()) == workers
    assert results(service, program) == {"v1": "old", "v2": "old"}
    code.write(NEW)
    assert service.client.post("/pools/v1/reload").status_code == 200
    assert results(service, program) == {"v1": "new", "v2": "old"}


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ("def first(:\n", "SyntaxError: invalid syntax (shop.py, line 2)"),
        ("import time\ntime.sleep(600)\n", "TimeoutError: the import takes more than 1 s (shop.py, line 3)"),
    ],
)
def test_code_that_cannot_be_imported_replaces_nothing(
    start_service: StartService, code: UserCode, broken: str, says: str
) -> None:
    """A module that programs use is tried before any worker is replaced; one of PROGRAM_MODULES has to be there."""
    service = start_service(LOAD_TIMEOUT_S=1, **code.settings)
    program = service.create("shop:first", {})
    assert results(service, program) == {"v1": "old", "v2": "old"}
    code.write(broken)
    answer = service.client.post("/pools/v2/reload")
    assert (answer.status_code, answer.json()["code"]) == (500, "load_failed")
    assert answer.json()["detail"].endswith(f"'shop' cannot be imported: {says}")
    assert results(service, program) == {"v1": "old", "v2": "old"}
    code.remove("shop.py")
    missing = service.client.post("/pools/v2/reload").json()
    assert missing["detail"].endswith("'shop' cannot be imported: ModuleNotFoundError: No module named 'shop'")
    assert results(service, program) == {"v1": "old", "v2": "old"}
    assert service.log().count("reload failed; the old code stays") == 2
    assert not any(alarm in service.log() for alarm in ("zygote died", "background task failed"))


def test_code_that_nobody_has_called_is_tried_too(start_service: StartService, code: UserCode) -> None:
    """As V2 before its canary: no worker has loaded a program yet."""
    service = start_service(**code.settings)
    code.write("def first(:\n")
    for version in POOLS:
        answer = service.client.post(f"/pools/{version}/reload")
        assert (answer.status_code, answer.json()["code"]) == (500, "load_failed")
        assert "'shop' fails on import: SyntaxError: invalid syntax (shop.py, line 2)" in answer.json()["detail"]
    code.write(OLD)
    assert results(service, service.create("shop:first", {})) == {"v1": "old", "v2": "old"}


def test_a_module_that_was_removed_is_not_missed(start_service: StartService, tmp_path: Path) -> None:
    """As long as neither PROGRAM_MODULES nor a program names it: the package goes on without it."""
    package = tmp_path / "shop"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "old.py").write_text(OLD)
    service = start_service(PYTHONPATH=tmp_path, PROGRAM_MODULES="shop")
    program = service.create("shop.old:first", {})
    assert results(service, program) == {"v1": "old", "v2": "old"}
    (package / "old.py").unlink()
    missed = service.client.post("/pools/v2/reload")
    assert missed.json()["programs"] == [
        {"program_id": program, "reason": "cannot import 'shop.old': No module named 'shop.old'"}
    ]
    assert service.client.delete(f"/programs/{program}").status_code == 204
    assert service.client.post("/pools/v2/reload").status_code == 200


def test_the_pools_follow_the_disk_by_themselves(start_service: StartService, code: UserCode) -> None:
    """With `--reload` a creation sees the new code at once, and an old program runs it soon after a change."""
    service = start_service(RELOAD="true", **code.settings)
    program = service.create("shop:first", {})
    assert results(service, program) == {"v1": "old", "v2": "old"}
    code.write(NEW)
    created = creation(service, "shop:second")
    assert created.status_code == 201, created.text
    assert results(service, created.json()["id"]) == {"v1": "new", "v2": "new"}
    code.write(NEW.replace("new", "newest"))
    wait_until(lambda: results(service, program) == {"v1": "newest", "v2": "newest"}, "the pools have reloaded")
    code.write("def first(:\n")
    refused = creation(service, "shop:second")
    assert (refused.status_code, refused.json()["code"]) == (500, "load_failed")
    assert refused.json()["detail"].endswith("'shop' cannot be imported: SyntaxError: invalid syntax (shop.py, line 2)")
    assert results(service, program) == {"v1": "newest", "v2": "newest"}


def test_only_operators_reload(start_service: StartService, code: UserCode, tmp_path: Path) -> None:
    """A key that may run programs may not replace workers; one with `operate` may; a pool that is not there is 404."""
    keys = {scope: new_key() for scope in (Scope.EXECUTE, Scope.OPERATE)}
    stored = tuple(
        StoredKey(name=str(scope), hash=hash_key(key), scopes=frozenset({scope})) for scope, key in keys.items()
    )
    path = tmp_path / "keys.json"
    path.write_text(KeyFile(keys=stored).model_dump_json())
    service = start_service(POOLS="v2", API_KEYS_FILE=path, **code.settings)

    def status(version: str, scope: Scope) -> int:
        headers = {"x-api-key": keys[scope]}
        return service.client.post(f"/pools/{version}/reload", headers=headers).status_code

    assert status("v2", Scope.EXECUTE) == 403
    assert status("v2", Scope.OPERATE) == 200
    assert status("v1", Scope.OPERATE) == 404


@pytest.mark.git
def test_a_pool_tells_the_git_commit_of_its_code(start_service: StartService, code: UserCode) -> None:
    """The commit of what its workers have, whatever is committed or changed since; without a repository none."""

    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=A", "-c", "user.email=a@example.com")
        command = [tool("git"), "-C", str(code.folder), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    service = start_service(**code.settings)
    assert [service.pool(version)["programs_commit"] for version in POOLS] == [None, None]
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message", "one")
    first = git("rev-parse", "HEAD")
    assert service.client.post("/pools/v1/reload").status_code == 200
    code.write(NEW)
    assert service.client.post("/pools/v2/reload").status_code == 200
    assert [service.pool(version)["programs_commit"] for version in POOLS] == [first, f"{first}-dirty"]
