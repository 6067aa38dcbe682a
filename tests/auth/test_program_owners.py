"""Global programs are their owner's: every key may run one, and only the owner's keys and admins may change it."""

import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from config.api_keys import Scope, StoredKey, hash_key, new_key
from tests.auth.test_matrix import PROGRAM, write_keys
from tests.service.test_errors import problem
from tests.support.service import Service, running_service

SCOPES = {"a": Scope.EXECUTE, "a's other": Scope.EXECUTE, "b": Scope.EXECUTE, "nobody's": Scope.EXECUTE}
OWNERS = {"a": "team-a", "a's other": "team-a", "b": "team-b", "b's admin": "team-b"}
KEYS = {name: new_key() for name in (*SCOPES, "root", "b's admin")}
REASON = {"force": True, "reason": "sure"}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with keys of two owners, of none, and of an admin."""
    directory = tmp_path_factory.mktemp("program-owners")
    keys = [
        StoredKey(
            name=name,
            hash=hash_key(key),
            scopes=frozenset({SCOPES.get(name, Scope.ADMIN)}),
            owner=OWNERS.get(name),
        )
        for name, key in KEYS.items()
    ]
    with running_service(directory, API_KEYS_FILE=write_keys(directory / "keys.json", keys)) as service:
        yield service


def ask(service: Service, key: str, method: str, path: str, body: Any = None) -> httpx.Response:
    return service.client.request(method, path, json=body, headers={"authorization": f"Bearer {KEYS[key]}"})


def new_program(service: Service, key: str = "a", **more: Any) -> str:
    program = f"p-{uuid.uuid4().hex}"
    created = ask(service, key, "PUT", f"/programs/{program}", {**PROGRAM, **more})
    assert created.status_code == 201, created.text
    assert created.json()["owner"] == OWNERS.get(key)
    return program


def changes(program: str, **more: Any) -> list[tuple[str, str, Any]]:
    """Every way to change or delete a program, each with a body that would do it."""
    body = {**PROGRAM, "instructions": "of another team", **more}
    path = f"/programs/{program}"
    return [
        ("PUT", path, body),
        ("PUT", f"{path}?dry_run=true", body),
        ("PATCH", "/programs", {"programs": [{**body, "id": program}]}),
        ("PUT", f"{path}?pool_version=v2", body),
        ("DELETE", f"{path}?pool_version=v2", None),
        ("POST", f"{path}/promote", REASON),
        ("POST", f"{path}/demote", {}),
        ("POST", f"{path}/restore", {"revision": 1}),
        ("DELETE", path, None),
    ]


@pytest.mark.parametrize("key", ["b", "nobody's"])
def test_others_run_it_and_change_nothing(service: Service, key: str) -> None:
    """403 for each way, which names the owner and the scope; the program stays as it was, deleted or not."""
    program = new_program(service)
    assert ask(service, "a", "PUT", f"/programs/{program}?pool_version=v2", PROGRAM).status_code == 201
    before = ask(service, key, "GET", f"/programs/{program}").json()
    run = ask(service, key, "POST", f"/programs/{program}/execute", {"inputs": {"nonce": "hello"}})
    assert run.json()["outputs"] == {"result": "hello"}
    for method, path, body in changes(program):
        detail = problem(ask(service, key, method, path, body), 403, "forbidden")["detail"]
        assert "'team-a'" in detail, (method, path)
        assert "admin" in detail
    after = ask(service, "a", "GET", f"/programs/{program}").json()
    use = ("execution_count", "last_executed_at")
    assert {**after, **dict.fromkeys(use)} == {**before, **dict.fromkeys(use)}
    assert ask(service, "a", "DELETE", f"/programs/{program}").status_code == 204
    problem(ask(service, key, "POST", f"/programs/{program}/restore"), 403, "forbidden")
    assert ask(service, "a's other", "POST", f"/programs/{program}/restore").json()["owner"] == "team-a"


@pytest.mark.parametrize("key", ["a", "a's other", "root"])
def test_the_owner_and_admins_change_it(service: Service, key: str) -> None:
    """By every way, with any key of the owner; an admin's change leaves the program to its owner."""
    program = new_program(service)
    for method, path, body in changes(program):
        answer = ask(service, key, method, path, body)
        assert answer.status_code in (200, 201, 204, 404, 409), (method, path, answer.text)
        assert answer.status_code != 403
    restored = ask(service, key, "POST", f"/programs/{program}/restore")
    assert (restored.status_code, restored.json()["owner"]) == (200, "team-a")


def test_a_shared_program_is_everyones_but_for_its_sharing(service: Service) -> None:
    """Others may replace, promote and delete it; whether it is shared is the owner's word alone."""
    program = new_program(service, shared=True)
    path = f"/programs/{program}"
    assert ask(service, "b", "GET", path).json()["shared"] is True
    refused = problem(ask(service, "b", "PUT", path, {**PROGRAM, "instructions": "b"}), 403, "forbidden")
    assert "`shared: true`" in refused["detail"]
    for method, way, body in changes(program, shared=True):
        answer = ask(service, "b", method, way, body)
        assert answer.status_code != 403, (method, way, answer.text)
    assert ask(service, "b", "POST", f"{path}/restore").json()["owner"] == "team-a"
    assert ask(service, "a", "PUT", path, PROGRAM).json()["shared"] is False
    problem(ask(service, "b", "DELETE", path), 403, "forbidden")


def test_a_shared_program_is_not_taken_over(service: Service) -> None:
    """Whoever may delete it may not make another one of its id: that is kept for its owner, and comes back."""
    program = new_program(service, shared=True)
    path = f"/programs/{program}"
    assert ask(service, "b", "DELETE", path).status_code == 204
    new = {**PROGRAM, "instructions": "of another team"}
    ways = [
        ("POST", "/programs", {**new, "id": program}),
        ("PUT", path, new),
        ("PUT", f"{path}?dry_run=true", new),
        ("PATCH", "/programs", {"programs": [{**new, "id": program}]}),
        ("PATCH", "/programs?dry_run=true", {"programs": [{**new, "id": program}]}),
    ]
    for key in ("b", "nobody's"):
        for method, way, body in ways:
            detail = problem(ask(service, key, method, way, body), 409, "program_exists")["detail"]
            assert "for 'team-a'" in detail, (key, method, way)
            assert "scope admin" in detail
    assert ask(service, "a's other", "POST", f"{path}/restore").json()["owner"] == "team-a"
    assert ask(service, "a", "DELETE", path).status_code == 204
    assert ask(service, "root", "PUT", path, new).status_code == 201


def test_another_owners_deletion_is_in_nobodys_way(service: Service) -> None:
    """Each owner lists and restores its own; an admin may name any of them."""
    program = new_program(service)
    path = f"/programs/{program}"
    assert ask(service, "a", "DELETE", path).status_code == 204
    assert ask(service, "b's admin", "PUT", path, PROGRAM).json()["owner"] == "team-b"
    assert ask(service, "b", "DELETE", path).status_code == 204

    def numbers(key: str) -> list[int]:
        return [one["deletion"] for one in ask(service, key, "GET", f"{path}/deletions").json()["items"]]

    of_b, of_a = numbers("root")
    assert [numbers(key) for key in ("a", "a's other", "b", "nobody's")] == [[of_a], [of_a], [of_b], []]
    refused = problem(ask(service, "b", "POST", f"{path}/restore", {"deletion": of_a}), 403, "forbidden")
    assert "'team-a'" in refused["detail"]
    assert "may restore it" in refused["detail"]
    assert ask(service, "a", "POST", f"{path}/restore").json()["owner"] == "team-a"
    assert ask(service, "a", "DELETE", path).status_code == 204
    assert ask(service, "root", "POST", f"{path}/restore", {"deletion": of_b}).json()["owner"] == "team-b"


def test_a_program_without_an_owner_is_everyones(service: Service) -> None:
    """A key without an owner makes programs that any `execute` key may change, as before there were owners."""
    for key in ("a", "nobody's"):
        program = new_program(service, "nobody's")
        for method, path, body in changes(program):
            assert ask(service, key, method, path, body).status_code != 403, (method, path)


def test_another_owners_session_is_no_way_to_the_global_program(service: Service) -> None:
    """A deletion that names it is the one of a missing session's program: the global program stays."""
    program = new_program(service, "b")
    session = f"s-{uuid.uuid4().hex}"
    own = {**PROGRAM, "id": program, "session_id": session}
    assert ask(service, "a", "POST", "/programs", own).status_code == 201
    for method, path, body in changes(program):
        if method != "PATCH":
            way = f"{path}{'&' if '?' in path else '?'}session_id={session}"
            assert ask(service, "b", method, way, body).status_code == 404, (method, way)
    assert ask(service, "b", "GET", f"/programs/{program}").json()["revision"] == 1
    assert ask(service, "a", "GET", f"/programs/{program}?session_id={session}").json()["session_id"] == session
