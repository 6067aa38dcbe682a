"""Calls of a session that has ended with programs or an LM of its own: refused, not answered by global programs."""

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from pathlib import Path

from config.api_keys import Scope, StoredKey, hash_key, new_key
from tests.auth.test_matrix import write_keys
from tests.conftest import StartService
from tests.service.test_errors import problem
from tests.service.test_program_changes import definition, put
from tests.support.service import Service
from tests.support.waiting import wait_until

LM = {"model": "none"}
NONCE = {"nonce": "a"}
_QUESTION = {"name": "question", "type": "string"}
PREDICT = {
    "program_type": "predict",
    "signature": {"inputs": [_QUESTION], "outputs": [{"name": "result", "type": "string"}]},
}


def with_own(service: Service, session: str) -> None:
    """A program of the session's own in the place of the global one."""
    assert put(service, "p", definition("shout"), f"?session_id={session}").status_code == 201
    assert result(service, session) == "A"


def result(service: Service, session: str) -> str:
    answer = service.execute("p", inputs={"nonce": "a"}, session_id=session)
    assert answer.status_code == 200, answer.text
    found: str = answer.json()["outputs"]["result"]
    return found


def has_ended(service: Service, session: str) -> bool:
    return service.client.get(f"/sessions/{session}").status_code == 404


def refused(service: Service, session: str) -> None:
    """Calls of every kind are refused."""
    body = {"inputs": {"nonce": "a"}, "session_id": session}
    problems = [
        problem(service.execute("p", headers, **body), 410, "session_ended")
        for headers in ({}, {"accept": "text/event-stream"}, {"prefer": "respond-async"}, {"idempotency-key": session})
    ]
    batch = service.client.post("/programs/p/batch", json={"inputs": [{"nonce": "a"}], "session_id": session})
    problems.append(problem(batch, 410, "session_ended"))
    for one in problems:
        assert session in one["detail"]
        assert (one["category"], one["retry_safe"]) == ("session", True)
        datetime.fromisoformat(one["ended_at"])


def test_a_session_that_expired(start_service: StartService) -> None:
    """One with a program or an LM of its own is refused, also after a restart, until it has something of its own again.

    One that held nothing of its own goes on as if it were new.
    """
    service = start_service(SESSION_TTL_S=1)
    assert put(service, "p", definition()).status_code == 201
    with_own(service, "with-a-program")
    assert service.client.put("/sessions/with-an-lm/lm", json=LM).status_code == 200
    assert result(service, "with-nothing") == "a"
    for session in ("with-a-program", "with-an-lm", "with-nothing"):
        wait_until(partial(has_ended, service, session), f"{session} has ended")
    for _ in range(2):
        refused(service, "with-a-program")
        refused(service, "with-an-lm")
        assert result(service, "with-nothing") == "a"
        service.stop()
        service.start()
    missing = definition("no_such_function")
    invalid = put(service, "p", missing, "?session_id=with-an-lm")
    problem(invalid, 422, "invalid_request")
    refused(service, "with-an-lm")
    assert service.client.put("/sessions/with-an-lm/lm", json=LM).status_code == 200
    assert result(service, "with-an-lm") == "a"
    with_own(service, "with-a-program")


def test_a_session_that_has_one_of_its_things_again(start_service: StartService) -> None:
    """Calls of what it lost beside that are refused until it has that again; also after a restart and a second end.

    Of the LM these are the calls that would run on everyone's. What it never had is everyone's as before.
    """
    service = start_service()
    for program in ("p", "q", "everyones"):
        assert put(service, program, definition()).status_code == 201
    assert put(service, "asks", PREDICT).status_code == 201
    for program in ("p", "q"):
        assert put(service, program, definition("shout"), "?session_id=s").status_code == 201
    assert service.client.put("/sessions/s/lm", json=LM).status_code == 200

    def codes() -> dict[str, str]:
        found = {}
        for program, inputs in {"p": NONCE, "q": NONCE, "everyones": NONCE, "asks": {"question": "why"}}.items():
            answer = service.execute(program, inputs=inputs, session_id="s").json()
            found[program] = answer.get("code") or answer["outputs"]["result"]
        return found

    assert codes() == {"p": "A", "q": "A", "everyones": "a", "asks": "lm_not_configured"}
    ended = "session_ended"
    for _ in range(2):
        assert service.client.delete("/sessions/s").status_code == 204
        assert codes() == dict.fromkeys(codes(), ended)
        assert put(service, "p", definition("shout"), "?session_id=s").status_code == 201
        for _ in range(2):
            assert codes() == {"p": "A", "q": ended, "everyones": "a", "asks": ended}
            service.stop()
            service.start()
    told = problem(service.execute("q", inputs=NONCE, session_id="s"), 410, ended)["detail"]
    assert "the program 'q' that it had, and has begun again without that" in told
    batch = service.client.post("/programs/q/batch", json={"inputs": [NONCE], "session_id": "s"})
    problem(batch, 410, ended)
    assert service.client.put("/sessions/s/lm", json=LM).status_code == 200
    assert codes() == {"p": "A", "q": ended, "everyones": "a", "asks": "lm_not_configured"}
    assert put(service, "q", definition("shout"), "?session_id=s").status_code == 201
    assert service.client.delete("/programs/q?session_id=s").status_code == 204  # this time the client says so
    assert codes()["q"] == "a"


def test_a_refused_call_counts_for_its_sessions_version(start_service: StartService) -> None:
    """The answer names the version that the session's calls went to, each time."""
    service = start_service(CANARY_PERCENT=50)
    assert put(service, "p", definition()).status_code == 201
    for number in range(4):
        session = f"s-{number}"
        with_own(service, session)
        version = service.execute("p", inputs=NONCE, session_id=session).headers["x-pool-version"]
        assert service.client.delete(f"/sessions/{session}").status_code == 204
        answers = [service.execute("p", inputs=NONCE, session_id=session) for _ in range(6)]
        assert {answer.headers["x-pool-version"] for answer in answers} == {version}
        assert {answer.json()["pool_version"] for answer in answers} == {version}


def test_a_call_that_runs_at_the_end_of_its_session(start_service: StartService) -> None:
    """A client ends the session; the call is answered, and its end does not begin the session again."""
    service = start_service()
    assert put(service, "p", definition()).status_code == 201
    with_own(service, "s")
    hold = service.create("hold", {"directory": "string", "name": "string"})
    inputs = {"directory": str(service.directory), "name": "held"}
    with ThreadPoolExecutor() as callers:
        running = callers.submit(service.execute, hold, inputs=inputs, session_id="s")
        wait_until(lambda: any(service.directory.glob("held.*")), "the call runs")
        assert service.client.delete("/sessions/s").status_code == 204
        (service.directory / "go").touch()
        assert running.result().status_code == 200
    refused(service, "s")


def test_it_is_told_to_whose_session_it_was(start_service: StartService, tmp_path: Path) -> None:
    """To another owner the id is a new one, and the session that this owner begins is no longer the first owner's."""
    keys = {name: new_key() for name in ("alice", "bob")}
    scopes = frozenset({Scope.EXECUTE})
    stored = [StoredKey(name=name, hash=hash_key(key), scopes=scopes) for name, key in keys.items()]
    service = start_service(API_KEYS_FILE=write_keys(tmp_path / "keys.json", stored))
    alice, bob = ({"authorization": f"Bearer {keys[name]}"} for name in ("alice", "bob"))
    body = {"inputs": {"nonce": "a"}, "session_id": "s"}
    assert put(service, "p", definition(), **alice).status_code == 201
    assert put(service, "p", definition("shout"), "?session_id=s", **alice).status_code == 201
    assert service.client.delete("/sessions/s", headers=alice).status_code == 204
    problem(service.client.post("/programs/p/execute", json=body, headers=alice), 410, "session_ended")
    bobs = service.client.post("/programs/p/execute", json=body, headers=bob)
    assert bobs.json()["outputs"] == {"result": "a"}
    problem(service.client.post("/programs/p/execute", json=body, headers=alice), 404, "session_not_found")
