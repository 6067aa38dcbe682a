"""Sessions and jobs are their owner's: to another one they are as if they did not exist."""

import itertools
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from config.api_keys import Scope, StoredKey, hash_key, new_key
from tests.auth.test_matrix import PROGRAM, write_keys
from tests.service.test_errors import problem
from tests.support.service import Service, running_service
from tests.support.waiting import wait_until

INPUTS = {"inputs": {"nonce": "a"}}
SCOPES = {
    "alice": {Scope.EXECUTE},
    "alice's next key": {Scope.EXECUTE},
    "bob": {Scope.EXECUTE},
    "watcher": {Scope.OBSERVE},
    "pilot": {Scope.OPERATE},
    "root": {Scope.ADMIN},
}
OWNERS = {"alice's next key": "alice"}
KEYS = {name: new_key() for name in SCOPES}
SEE = ("alice", "alice's next key", "root")
READ = (*SEE, "watcher", "pilot")

_count = itertools.count()


def stored(name: str) -> StoredKey:
    scopes = frozenset(SCOPES[name])
    return StoredKey(name=name, hash=hash_key(KEYS[name]), scopes=scopes, owner=OWNERS.get(name))


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with a key for each of them."""
    directory = tmp_path_factory.mktemp("owners")
    keys = write_keys(directory / "keys.json", [stored(name) for name in SCOPES])
    with running_service(directory, API_KEYS_FILE=keys) as service:
        yield service


def ask(service: Service, name: str, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
    sent = {"authorization": f"Bearer {KEYS[name]}", **headers}
    return service.client.request(method, path, json=body, headers=sent)


def global_program(service: Service, by: str = "alice") -> str:
    answer = ask(service, by, "POST", "/programs", PROGRAM)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def new_session(service: Service, by: str = "alice") -> str:
    """A session of `by` with a program `own`, an LM of its own and a job."""
    session = f"session-{next(_count)}"
    body = {**PROGRAM, "id": f"own-{session}", "session_id": session}
    assert ask(service, by, "POST", "/programs", body).status_code == 201
    assert ask(service, by, "PUT", f"/sessions/{session}/lm", {"model": "openai/of-alice"}).status_code == 200
    return session


def job(service: Service, by: str, **body: Any) -> str:
    program = global_program(service)
    started = ask(service, by, "POST", f"/programs/{program}/execute", {**INPUTS, **body}, prefer="respond-async")
    assert started.status_code == 202, started.text
    return str(started.json()["execution_id"])


def masked(answer: httpx.Response, *ids: str) -> tuple[int, str]:
    """An answer without the ids that differ by nature."""
    text = answer.text
    for one in ids:
        text = text.replace(one, "…")
    return answer.status_code, text


@pytest.mark.parametrize("caller", SCOPES)
def test_who_sees_a_session(service: Service, caller: str) -> None:
    """The owner by any key, observers and admins see a session; all others get the answer for a missing one."""
    session = new_session(service)
    answer = ask(service, caller, "GET", f"/sessions/{session}")
    listed = [one["id"] for one in ask(service, caller, "GET", "/sessions?limit=1000").json()["items"]]
    lm = ask(service, caller, "GET", f"/sessions/{session}/lm").json()
    programs = ask(service, caller, "GET", f"/programs?session_id={session}").json()["items"]
    program = ask(service, caller, "GET", f"/programs/own-{session}?session_id={session}")
    revisions = ask(service, caller, "GET", f"/programs/own-{session}/revisions?session_id={session}")
    if caller in READ:
        assert answer.status_code == 200
        assert [one["created_by"] for one in revisions.json()["items"]] == ["alice"]
        assert session in listed
        assert lm["set_for"] == "session"
        assert [one["id"] for one in programs] == [f"own-{session}"]
        assert program.status_code == 200
        return
    missing = ask(service, caller, "GET", "/sessions/missing")
    assert masked(answer, session) == masked(missing, "missing")
    problem(answer, 404, "session_not_found")
    assert session not in listed
    assert lm == ask(service, caller, "GET", "/sessions/missing/lm").json()
    assert programs == []
    problem(program, 404, "program_not_found")
    problem(revisions, 404, "program_not_found")


@pytest.mark.parametrize("caller", ["alice", "alice's next key", "bob", "root"])
def test_who_uses_a_session(service: Service, caller: str) -> None:
    """A call in it, a program or an LM for it, its end: 404 for who is not its owner, and nothing has changed then."""
    session = new_session(service)
    everyones = global_program(service)
    deeds = [
        ("POST", f"/programs/{everyones}/execute", {**INPUTS, "session_id": session}, {}),
        ("POST", f"/programs/own-{session}/execute", {**INPUTS, "session_id": session}, {}),
        ("POST", f"/programs/{everyones}/execute", {**INPUTS, "session_id": session}, {"prefer": "respond-async"}),
        ("POST", f"/programs/{everyones}/execute", {**INPUTS, "session_id": session}, {"accept": "text/event-stream"}),
        ("POST", "/programs", {**PROGRAM, "session_id": session}, {}),
        ("PUT", f"/programs/own-{session}?session_id={session}", {**PROGRAM, "instructions": caller}, {}),
        ("PUT", f"/programs/own-{session}?session_id={session}&dry_run=true", PROGRAM, {}),
        ("PUT", f"/programs/own-{session}", {**PROGRAM, "session_id": session}, {}),
        ("PUT", f"/sessions/{session}/lm", {"model": "none"}, {}),
        ("DELETE", f"/sessions/{session}", None, {}),
    ]
    before = ask(service, "root", "GET", f"/sessions/{session}").json()
    for method, path, body, headers in deeds:
        answer = ask(service, caller, method, path, body, **headers)
        if caller in SEE:
            assert answer.is_success, f"{method} {path}: {answer.text}"
        else:
            problem(answer, 404, "session_not_found")
    if caller not in SEE:
        assert ask(service, caller, "DELETE", f"/sessions/{session}/lm").status_code == 204  # as of a missing one
        problem(
            ask(service, caller, "DELETE", f"/programs/own-{session}?session_id={session}"), 404, "program_not_found"
        )
        assert ask(service, "root", "GET", f"/sessions/{session}").json() == before
        own = ask(service, "alice", "GET", f"/programs/own-{session}?session_id={session}").json()
        assert (own["revision"], own["instructions"]) == (1, None)
        assert ask(service, "alice", "GET", f"/sessions/{session}/lm").json()["model"] == "openai/of-alice"


@pytest.mark.parametrize("caller", SCOPES)
@pytest.mark.parametrize("in_session", [False, True])
def test_who_sees_a_job(service: Service, caller: str, *, in_session: bool) -> None:
    """The owner by any key, observers and admins see a job; only the owner and admins may cancel it."""
    body = {"session_id": new_session(service)} if in_session else {}
    execution = job(service, "alice", **body)
    query = f"?session_id={body['session_id']}" if in_session else ""
    answer = ask(service, caller, "GET", f"/executions/{execution}")
    listed = [one["execution_id"] for one in ask(service, caller, "GET", f"/executions{query}").json()["items"]]
    assert (execution in listed) == (caller in READ)
    if caller in READ:
        assert answer.status_code == 200
    else:
        assert masked(answer, execution) == masked(ask(service, caller, "GET", "/executions/missing"), "missing")
        problem(answer, 404, "execution_not_found")
    cancelled = ask(service, caller, "DELETE", f"/executions/{execution}")
    expected = 200 if caller in SEE else 404 if caller == "bob" else 403
    assert cancelled.status_code == expected


def test_an_observer_sees_no_details_of_errors(service: Service) -> None:
    """A program's message may have its caller's data in it: who only observes gets the code and the title."""
    body = {**PROGRAM, "entrypoint": "tests.support.programs:fail"}
    body["signature"] = {**PROGRAM["signature"], "inputs": [{"name": "message", "type": "string"}]}  # type: ignore[dict-item]
    program = ask(service, "alice", "POST", "/programs", body).json()["id"]
    inputs = {"inputs": {"message": "alice's data"}}
    started = ask(service, "alice", "POST", f"/programs/{program}/execute", inputs, prefer="respond-async").json()
    place = f"/executions/{started['execution_id']}"
    wait_until(lambda: ask(service, "alice", "GET", place).json()["ended_at"] is not None, "the job is over")
    for caller in ("alice", "root"):
        assert "alice's data" in ask(service, caller, "GET", place).json()["problem"]["detail"]
    for caller in ("watcher", "pilot"):
        answer = ask(service, caller, "GET", place)
        assert answer.json()["problem"]["code"] == "program_error"
        assert "alice's data" not in answer.text


def test_programs_without_a_session_are_everyones(service: Service) -> None:
    """Whoever made them."""
    program = global_program(service, "alice")
    assert ask(service, "bob", "POST", f"/programs/{program}/execute", INPUTS).status_code == 200
    assert ask(service, "bob", "DELETE", f"/programs/{program}").status_code == 204


def test_an_ended_session_may_be_anyones_next(service: Service) -> None:
    """An id is its owner's only as long as the session lives."""
    session = new_session(service)
    body = {**INPUTS, "session_id": session}
    program = global_program(service)
    problem(ask(service, "bob", "POST", f"/programs/{program}/execute", body), 404, "session_not_found")
    assert ask(service, "alice", "DELETE", f"/sessions/{session}").status_code == 204
    assert ask(service, "bob", "POST", f"/programs/{program}/execute", body).status_code == 200
    problem(ask(service, "alice", "GET", f"/sessions/{session}"), 404, "session_not_found")


def test_owners_outlive_a_restart_and_a_rotated_key(tmp_path: Path) -> None:
    """Sessions and jobs are found by the owner's next key, after a restart without the first one; not by another's."""
    first = write_keys(tmp_path / "first.json", [stored("alice"), stored("bob")])
    then = write_keys(tmp_path / "then.json", [stored("alice's next key"), stored("bob")])
    with running_service(tmp_path, API_KEYS_FILE=first) as service:
        session, execution = new_session(service), job(service, "alice")
        wait_until(
            lambda: ask(service, "alice", "GET", f"/executions/{execution}").json()["ended_at"] is not None,
            "it is over",
        )
    with running_service(tmp_path, API_KEYS_FILE=then) as service:
        for path in (f"/sessions/{session}", f"/executions/{execution}"):
            assert ask(service, "alice's next key", "GET", path).status_code == 200
            assert ask(service, "bob", "GET", path).status_code == 404
        body = {**INPUTS, "session_id": session}
        called = ask(service, "bob", "POST", f"/programs/own-{session}/execute", body)
        problem(called, 404, "session_not_found")


def test_what_was_made_without_keys_stays_everyones(tmp_path: Path) -> None:
    """A service that gets keys later hides nothing that nobody owns; so is what an older version has written."""
    with running_service(tmp_path) as service:
        created = service.client.post("/programs", json={**PROGRAM, "id": "p", "session_id": "old"})
        assert created.status_code == 201
        started = service.client.post(
            "/programs/p/execute", json={**INPUTS, "session_id": "old"}, headers={"prefer": "respond-async"}
        )
        execution = started.json()["execution_id"]
    keys = write_keys(tmp_path / "keys.json", [stored("alice"), stored("bob")])
    with running_service(tmp_path, API_KEYS_FILE=keys) as service:
        for caller in ("alice", "bob", "alice"):
            for path in ("/sessions/old", f"/executions/{execution}"):
                assert ask(service, caller, "GET", path).status_code == 200
            body = {**INPUTS, "session_id": "old"}
            assert ask(service, caller, "POST", "/programs/p/execute", body).status_code == 200


def test_ids_cannot_be_guessed(service: Service) -> None:
    """Neighbours share no more than chance would have it, and none comes twice."""
    program = global_program(service)
    ids = [
        ask(service, "bob", "POST", f"/programs/{program}/execute", INPUTS).headers["x-execution-id"] for _ in range(40)
    ]
    assert len(set(ids)) == len(ids)
    for one, other in itertools.pairwise(ids):
        assert len(one) == len(other) == 32
        assert sum(a == b for a, b in zip(one, other, strict=True)) < 16


def test_an_owner_outlives_the_service(tmp_path: Path) -> None:
    """A session is its owner's from the answer to its first call on, whatever becomes of the service then."""
    keys = write_keys(tmp_path / "keys.json", [stored(name) for name in SCOPES])
    with running_service(tmp_path, API_KEYS_FILE=keys, POOLS="v2") as service:
        program = global_program(service)
        body = {**INPUTS, "session_id": "s"}
        assert ask(service, "alice", "POST", f"/programs/{program}/execute", body).status_code == 200
        service.stop(signal.SIGKILL)
        service.start()
        problem(ask(service, "bob", "POST", f"/programs/{program}/execute", body), 404, "session_not_found")
        assert ask(service, "alice", "POST", f"/programs/{program}/execute", body).status_code == 200
