"""V2 runs a definition of its own of a program (`PUT …?pool_version=v2`), on real workers of both engines."""

import concurrent.futures
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import StartService
from tests.service.test_errors import problem
from tests.service.test_program_changes import changed, definition, put
from tests.support.ramps import PLAN
from tests.support.service import Service, running_service
from tests.support.waiting import wait_until

V2 = "?pool_version=v2"
NUMBER = {"nonce": "integer"}
FORCED = {"force": True, "reason": "the test is sure"}
ONLY_IN_V2 = """
import os

if "IS_V2" in os.environ:

    def answer(nonce: str) -> str:
        return "only in V2"
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Both pools, and no traffic but what a test forces; one function is there in V2 alone."""
    directory = tmp_path_factory.mktemp("own-definitions")
    (directory / "only_in_v2.py").write_text(ONLY_IN_V2)
    (directory / "v2.env").write_text("IS_V2=yes\n")
    modules = "tests.support.programs,only_in_v2"
    with running_service(directory, PROGRAM_MODULES=modules, V2_WORKER_ENV_FILE="v2.env") as service:
        yield service


def answers(service: Service, program: str, nonce: str = "a", **body: Any) -> list[Any]:
    """The outputs, or the error's code, of V1 and of V2."""
    found = []
    for version in ("v1", "v2"):
        answer = service.execute(program, {"X-Pool-Version": version}, inputs={"nonce": nonce}, **body)
        assert answer.headers["x-pool-version"] == version
        found.append(answer.json()["outputs"]["result"] if answer.status_code == 200 else answer.json()["code"])
    return found


@pytest.mark.parametrize("session", [None, "s-1"])
def test_v2_runs_its_own_until_it_is_taken_back_or_promoted(service: Service, session: str | None) -> None:
    """Each view and each list has both; revisions and ETags are counted apart; a promotion is a revision for all."""
    query = "" if session is None else f"&session_id={session}"
    of_all, body = query.replace("&", "?"), {} if session is None else {"session_id": session}
    base = changed(service, "p", definition(), of_all)
    assert base["v2"] is None
    given = put(service, "p", definition("shout"), V2 + query, if_none_match="*")
    assert (given.status_code, given.headers["etag"]) == (201, '"1"')
    assert given.json()["entrypoint"] == "tests.support.programs:shout"
    problem(put(service, "p", definition("shout"), V2 + query, if_none_match="*"), 412, "stale_revision")
    again = put(service, "p", definition("shout"), V2 + query, if_match='"1"')
    assert (again.status_code, again.json()) == (200, given.json())
    assert answers(service, "p", **body) == ["a", "A"]
    shown = service.client.get(f"/programs/p{of_all}").json()
    assert {**shown, "v2": None, "execution_count": 0, "last_executed_at": None} == base
    assert (shown["v2"]["entrypoint"], shown["v2"]["revision"]) == ("tests.support.programs:shout", 1)
    assert shown in service.client.get(f"/programs{of_all}").json()["items"]
    own = service.client.get(f"/programs/p{V2}{query}")
    assert (own.json()["entrypoint"], own.headers["etag"]) == (shown["v2"]["entrypoint"], '"1"')
    assert service.client.delete(f"/programs/p{V2}{query}").status_code == 204
    assert answers(service, "p", **body) == ["a", "a"]
    for refused in (
        service.client.delete(f"/programs/p{V2}{query}"),
        service.client.get(f"/programs/p{V2}{query}"),
        service.client.post(f"/programs/p/promote{of_all}"),
    ):
        assert "V2" in problem(refused, 404, "program_not_found")["detail"]
    preview = put(service, "p", definition("shout", instructions="later"), f"{V2}&dry_run=true{query}")
    assert (preview.status_code, preview.json()["revision"]) == (200, 3)
    assert answers(service, "p", **body) == ["a", "a"]
    assert changed(service, "p", definition("shout", instructions="later"), V2 + query)["revision"] == 3
    promote = f"/programs/p/promote{of_all}"
    problem(service.client.post(promote, headers={"If-Match": '"1"'}), 412, "stale_revision")
    problem(service.client.post(promote, headers={"If-Match": '"3"'}), 409, "plan_conflict")
    promoted = service.client.post(promote, headers={"If-Match": '"3"'}, json=FORCED)
    assert (promoted.json()["revision"], promoted.json()["v2"], promoted.headers["etag"]) == (2, None, '"2"')
    assert answers(service, "p", **body) == ["A", "A"]

    def revisions(query: str) -> list[int]:
        return [item["revision"] for item in service.client.get(f"/programs/p/revisions{query}").json()["items"]]

    assert (revisions(of_all), revisions(V2 + query)) == ([2, 1], [3, 1])
    service.client.delete(f"/programs/p{of_all}")


@pytest.mark.parametrize(
    ("body", "status", "code", "at"),
    [
        (definition(inputs=NUMBER), 409, "incompatible_definition", "nonce"),
        (definition("shout", signature={"inputs": [], "outputs": []}), 422, "invalid_request", None),
        (definition("no_such_function"), 422, "invalid_request", None),
        (definition("whoami", inputs={}), 409, "incompatible_definition", "nonce"),
    ],
    ids=["another type", "no outputs", "no function", "an input gone"],
)
def test_what_does_not_fit_is_refused(service: Service, body: Any, status: int, code: str, at: str | None) -> None:
    """With the field that is in the way; with or without a dry run, and V2 goes on with V1's."""
    program = "refusing"
    changed(service, program, definition())
    for query in (V2, f"{V2}&dry_run=true"):
        refused = problem(put(service, program, body, query), status, code)
        assert refused.get("field") == at
    assert answers(service, program) == ["a", "a"]
    problem(put(service, program, definition("shout"), "?pool_version=v1"), 422, "invalid_request")


def test_a_program_that_v1_has_not(service: Service) -> None:
    """V2 gets no definition of it, in a session neither, although the global one is there."""
    for query in (V2, f"{V2}&session_id=nobodys", f"{V2}&dry_run=true"):
        refused = problem(put(service, "missing", definition(), query), 404, "program_not_found")
        assert "V1 has no program 'missing'" in refused["detail"]
    changed(service, "global", definition())
    problem(put(service, "global", definition(), f"{V2}&session_id=nobodys"), 404, "program_not_found")
    problem(service.client.get("/sessions/nobodys"), 404, "session_not_found")


def test_v1s_definition_does_not_part_from_v2s(service: Service) -> None:
    """A change of V1's that V2's does not take is refused, also as a dry run; without V2's own it is taken."""
    program = "parting"
    changed(service, program, definition())
    changed(service, program, definition("shout"), V2)
    other = definition("slow_echo", inputs={"nonce": "string", "seconds": "number"})
    for query in ("", "?dry_run=true"):
        refused = problem(put(service, program, other, query), 409, "incompatible_definition")
        assert refused["field"] == "seconds"
    changed(service, program, definition("async_echo"))
    assert answers(service, program) == ["a", "A"]
    service.client.delete(f"/programs/{program}{V2}")
    changed(service, program, other)


def test_v2_alone_tries_it(service: Service) -> None:
    """A function that is there in V2 alone is V2's own definition; V1 cannot have it, so it is not promoted."""
    program = "only"
    body = {**definition(), "entrypoint": "only_in_v2:answer"}
    changed(service, program, definition())
    assert "on V1: " in problem(put(service, program, body), 422, "invalid_request")["detail"]
    changed(service, program, body, V2)
    assert answers(service, program) == ["a", "only in V2"]
    problem(service.client.post(f"/programs/{program}/promote", json=FORCED), 422, "invalid_request")
    assert answers(service, program) == ["a", "only in V2"]


def test_its_crashes_quarantine_it_alone(service: Service) -> None:
    """V2's definition kills workers and is stopped; V1's runs on, and so does the next one that V2 gets."""
    program = "crashing"
    changed(service, program, definition())
    changed(service, program, definition("exits_if"), V2)
    on_v2 = {"X-Pool-Version": "v2"}
    codes = [service.execute(program, on_v2, inputs={"nonce": "exit"}).json()["code"] for _ in range(4)]
    assert codes == ["worker_crashed"] * 3 + ["program_quarantined"]
    assert answers(service, program, "exit") == ["exit", "program_quarantined"]
    changed(service, program, definition("shout"), V2)
    assert answers(service, program, "exit") == ["exit", "EXIT"]
    service.client.delete(f"/programs/{program}{V2}")
    assert answers(service, program, "exit") == ["exit", "exit"]


def test_a_call_that_moves_runs_the_definition_of_its_version(start_service: StartService, tmp_path: Path) -> None:
    """At a rollback, one that waits for V2 and one that V2 runs and V1 repeats; a restart keeps V2's definition."""
    service = start_service(CANARY_PERCENT=100, V1_POOL_SIZE=1, V2_POOL_SIZE=1, CHECKOUT_TIMEOUT_S=20)
    fields = {"directory": "string", "name": "string"}
    changed(service, "p", definition("hold", fields, idempotent=True))
    changed(service, "p", definition("hold_and_shout", fields, idempotent=True, timeout_s=25), V2)

    def call(name: str) -> "concurrent.futures.Future[httpx.Response]":
        return callers.submit(service.execute, "p", inputs={"directory": str(tmp_path), "name": name})

    with concurrent.futures.ThreadPoolExecutor(2) as callers:
        running = call("running")
        wait_until(lambda: bool(list(tmp_path.glob("running.*"))), "V2 runs the first call")
        queued = call("queued")
        wait_until(lambda: service.pool("v2")["queue_depth"] == 1, "the second call waits for V2")
        service.client.post("/rollout/rollback", json={"in_flight": "replay"})
        (tmp_path / "go").touch()
        moved = [one.result() for one in (running, queued)]
    assert [answer.json()["outputs"]["result"] for answer in moved] == ["running", "queued"]
    assert {answer.headers["x-pool-version"] for answer in moved} == {"v1"}
    service.stop()
    service.start()
    answer = service.execute("p", {"X-Pool-Version": "v2"}, inputs={"directory": str(tmp_path), "name": "again"})
    assert answer.json()["outputs"]["result"] == "AGAIN"


def test_a_call_that_moves_at_a_rotation_keeps_v2s_definition(start_service: StartService, tmp_path: Path) -> None:
    """V2's definition is everyone's by then: one that waits for V2 does not get the one that V1 had before."""
    service = start_service(CANARY_PERCENT=100, V1_POOL_SIZE=1, V2_POOL_SIZE=1, CHECKOUT_TIMEOUT_S=20)
    fields = {"directory": "string", "name": "string"}
    changed(service, "p", definition("hold", fields))
    changed(service, "p", definition("hold_and_shout", fields), V2)

    def call(name: str) -> "concurrent.futures.Future[httpx.Response]":
        return callers.submit(service.execute, "p", inputs={"directory": str(tmp_path), "name": name})

    with concurrent.futures.ThreadPoolExecutor(2) as callers:
        running = call("running")
        wait_until(lambda: bool(list(tmp_path.glob("running.*"))), "V2 runs the first call")
        queued = call("queued")
        wait_until(lambda: service.pool("v2")["queue_depth"] == 1, "the second call waits for V2")
        assert "own definitions none → p" in service.client.get("/pools/diff").json()["summary"]
        rotation = service.client.post("/rollout/rotate", json={"unproven": True, "reason": "a test"})
        assert "own definitions none → p" in rotation.json()["reason"]
        (tmp_path / "go").touch()
        done = [(one.result().headers["x-pool-version"], one.result().json()["outputs"]) for one in (running, queued)]
    assert done == [("v2", {"result": "RUNNING"}), ("v1", {"result": "QUEUED"})]


def test_amid_a_ramp_evidence_starts_again(start_service: StartService) -> None:
    """Each change of V2's own definition, and of V1's beside it, says so in the ramp; under load no call fails."""
    service = start_service(CANARY_PERCENT=0)
    changed(service, "p", definition())
    plan = {"steps": [{**PLAN["steps"][0], "percent": 50, "hold_s": 3600}]}
    assert service.client.put("/rollout/plan", json=plan).is_success
    assert service.client.post("/rollout/start").is_success

    def send() -> list[tuple[str, str]]:
        with httpx.Client(base_url=service.url, timeout=30) as client:
            found = []
            for _ in range(150):
                answer = client.post("/programs/p/execute", json={"inputs": {"nonce": "a"}})
                assert answer.status_code == 200, answer.text
                found.append((answer.headers["x-pool-version"], answer.json()["outputs"]["result"]))
            return found

    changes: list[tuple[Callable[[], httpx.Response], str]] = [
        (lambda: put(service, "p", definition("shout"), V2), "gave V2 a definition of its own of p"),
        (lambda: put(service, "p", definition("async_echo")), "changed V1's definition of p"),
        (
            lambda: service.client.post("/programs/p/promote", json=FORCED),
            "promoted V2's own definition of p: the test is sure",
        ),
        (lambda: put(service, "p", definition("echo"), V2), "gave V2 a definition of its own of p"),
        (lambda: service.client.delete(f"/programs/p{V2}"), "took back V2's own definition of p"),
    ]
    with concurrent.futures.ThreadPoolExecutor(2) as callers:
        before = callers.submit(send)
        assert {one for one in before.result() if one[0] == "v2"} == {("v2", "a")}
        calls = [callers.submit(send) for _ in range(2)]
        for change, told in changes:
            assert change().is_success
            status = service.client.get("/rollout/status").json()
            assert told in status["reason"], status
            assert status["state"] in ("ramping", "waiting")
        seen = {one for call in calls for one in call.result()}
    assert seen <= {("v1", "a"), ("v2", "a"), ("v1", "A"), ("v2", "A")}
    assert answers(service, "p") == ["A", "A"]


def test_a_validation_proves_nothing_for_a_definition_that_came_after_it(service: Service) -> None:
    """Given to V2 or changed afterwards, it makes the items unknown; taken back, what was validated counts again.

    A session's definition changes nothing: it ends with the session.
    """
    changed(service, "validated", definition())
    pools = service.client.get("/migration").json()["pools"]
    body = {"pools": pools, "items": [{"item": "errors", "state": "met", "evidence": "12 of 12 are equal"}]}
    assert service.client.post("/migration/validations", json=body).status_code == 201

    def found() -> tuple[bool, str, str]:
        shown = service.client.get("/migration").json()
        state = {one["item"]: one["state"] for one in shown["checklist"]}["errors"]
        return shown["validation"]["is_current"], state, shown["pools"]

    assert found() == (True, "met", pools)
    changed(service, "validated", definition(), "?session_id=s-validated")
    assert put(service, "validated", definition("shout"), f"{V2}&session_id=s-validated").status_code == 201
    assert found() == (True, "met", pools)
    assert put(service, "validated", definition("shout"), V2).status_code == 201
    is_current, state, given = found()
    assert (is_current, state) == (False, "unknown")
    assert given != pools
    assert put(service, "validated", definition("async_echo"), V2).status_code == 200
    assert found()[2] not in (pools, given)
    assert service.client.delete(f"/programs/validated{V2}").is_success
    assert found() == (True, "met", pools)
