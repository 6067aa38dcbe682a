"""`PUT /programs/{id}`: a program changes while it serves, and no call notices but by what it runs."""

import concurrent.futures
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import StartService
from tests.service.test_errors import problem
from tests.support.service import Service
from tests.support.waiting import wait_until

NONCE = {"nonce": "string"}


def definition(function: str = "echo", inputs: dict[str, str] | None = None, **more: Any) -> dict[str, Any]:
    """The body of a program on a function of `tests.support.programs`."""
    fields = [{"name": name, "type": kind} for name, kind in (NONCE if inputs is None else inputs).items()]
    return {
        "program_type": "python",
        "entrypoint": f"tests.support.programs:{function}",
        "signature": {"inputs": fields, "outputs": [{"name": "result", "type": "string"}]},
        **more,
    }


def put(service: Service, program: str, body: dict[str, Any], query: str = "", **headers: str) -> httpx.Response:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return service.client.put(f"/programs/{program}{query}", json=body, headers=sent)


def changed(service: Service, program: str, body: dict[str, Any], query: str = "", **headers: str) -> dict[str, Any]:
    """The program after a change that is not refused; its ETag is its revision."""
    answer = put(service, program, body, query, **headers)
    assert answer.is_success, answer.text
    view: dict[str, Any] = answer.json()
    assert answer.headers["etag"] == f'"{view["revision"]}"'
    return view


def test_create_change_and_change_nothing(shared_service: Service, version: str) -> None:
    """201 with the address, then 200 with the next revision, then 200 with the same one; counts stay."""
    program = f"put-{version}"
    created = put(shared_service, program, definition(), if_none_match="*")
    assert (created.status_code, created.headers["location"]) == (201, f"/programs/{program}")
    assert (created.json()["revision"], created.headers["etag"]) == (1, '"1"')
    problem(put(shared_service, program, definition(), if_none_match="*"), 412, "stale_revision")
    assert shared_service.execute(program, inputs={"nonce": "a"}).json()["outputs"] == {"result": "a"}
    again = put(shared_service, program, definition())
    assert (again.status_code, again.json()["revision"]) == (200, 1)
    other = definition("async_echo", id=program, instructions="Another way.")
    assert changed(shared_service, program, other, if_match='"1"')["revision"] == 2
    assert shared_service.execute(program, inputs={"nonce": "b"}).json()["outputs"] == {"result": "b"}
    shown = shared_service.client.get(f"/programs/{program}")
    assert shown.headers["etag"] == '"2"'
    assert (shown.json()["execution_count"], shown.json()["created_at"]) == (2, created.json()["created_at"])
    assert shown.json() == changed(shared_service, program, other)
    assert shown.json() in shared_service.client.get("/programs?limit=1000").json()["items"]
    shared_service.client.delete(f"/programs/{program}")
    body = problem(put(shared_service, program, definition(), if_match='"2"'), 412, "stale_revision")
    assert body["revision"] is None


@pytest.mark.parametrize(
    ("body", "at"),
    [
        (definition("no_such_function"), "body.entrypoint"),
        (definition(inputs={"other": "string"}), "body.entrypoint"),
        (definition(inputs={"nonce": "text"}), "body.signature.inputs.0.type"),
        (definition(id="another"), "body.id"),
        (definition(session_id="another"), "body.session_id"),
    ],
    ids=["no function", "other inputs", "no type", "another id", "another session"],
)
@pytest.mark.parametrize("query", ["?session_id=s", "?session_id=s&dry_run=true"])
def test_a_refused_definition_changes_nothing(
    shared_service: Service, version: str, body: dict[str, Any], at: str, query: str
) -> None:
    """The checks are those of a creation, and say which member is wrong; the program runs as before."""
    program = f"refused-{version}"
    before = changed(shared_service, program, definition(), "?session_id=s")
    refused = problem(put(shared_service, program, body, query), 422, "invalid_request")
    assert [one["at"] for one in refused["errors"]] == [at]
    assert shared_service.client.get(f"/programs/{program}?session_id=s").json() == before
    problem(put(shared_service, "missing", body, query), 422, "invalid_request")


def test_a_dry_run_changes_nothing(shared_service: Service, version: str) -> None:
    """The answer shows the program as it would be, and there is neither a program nor a session then."""
    program, session = f"dry-{version}", f"dry-session-{version}"
    body = definition(instructions="first")
    would_be = put(shared_service, program, body, f"?session_id={session}&dry_run=true")
    assert (would_be.status_code, would_be.json()["revision"], would_be.json()["session_id"]) == (200, 1, session)
    problem(shared_service.client.get(f"/programs/{program}?session_id={session}"), 404, "program_not_found")
    problem(shared_service.client.get(f"/sessions/{session}"), 404, "session_not_found")
    before = changed(shared_service, program, body)
    would_be = put(shared_service, program, definition(instructions="second"), "?dry_run=true", if_match='"1"')
    assert would_be.json() == {**before, "revision": 2, "instructions": "second"}
    problem(put(shared_service, program, body, "?dry_run=true", if_match='"2"'), 412, "stale_revision")
    assert shared_service.client.get(f"/programs/{program}").json() == before


def test_a_sessions_program_is_beside_the_global_one(shared_service: Service, version: str) -> None:
    """A change of the one is none of the other, and their revisions are their own."""
    program, query = f"both-{version}", f"?session_id=both-{version}"
    changed(shared_service, program, definition(instructions="everyone's"))
    assert changed(shared_service, program, definition(instructions="its own"), query)["revision"] == 1
    assert changed(shared_service, program, definition(instructions="its own, later"), query)["revision"] == 2
    assert shared_service.client.get(f"/programs/{program}").json()["instructions"] == "everyone's"

    def told(query: str) -> list[str]:
        page = shared_service.client.get(f"/programs/{program}/revisions{query}").json()
        assert page["next_cursor"] is None
        return [item["definition"]["instructions"] for item in page["items"]]

    assert told(query) == ["its own, later", "its own"]
    assert told("?session_id=without-its-own") == told("") == ["everyone's"]


def test_a_former_definition_can_be_put_back(shared_service: Service, version: str) -> None:
    """Revisions show all of a definition, saved state and defaults too, as PUT takes it."""
    program = f"state-{version}"
    inputs = [{"name": "text", "type": "string", "default": "Ü"}, {"name": "more", "type": "array", "required": False}]
    signature = {"name": "S", "inputs": inputs, "outputs": [{"name": "answer", "type": "string", "description": "d"}]}
    first = {"program_type": "predict", "signature": signature, "instructions": "i", "idempotent": True}
    saved = [{"prefix": f"{name}:", "description": "d"} for name in ("text", "more", "answer")]
    demos = [{"text": "a", "answer": "b"}]
    state = {"demos": demos, "signature": {"instructions": "optimized", "fields": saved}, "lm": None, "traces": []}
    created = changed(shared_service, program, {**first, "state": state})
    changed(shared_service, program, first)
    revisions = shared_service.client.get(f"/programs/{program}/revisions").json()["items"]
    assert [item["revision"] for item in revisions] == [2, 1]
    assert revisions[1]["definition"]["state"] == state
    back = changed(shared_service, program, revisions[1]["definition"])
    assert back == {**created, "revision": 3}
    page = shared_service.client.get(f"/programs/{program}/revisions?limit=1").json()
    assert page["items"][0]["definition"] == revisions[1]["definition"]
    rest = shared_service.client.get(f"/programs/{program}/revisions?cursor={page['next_cursor']}").json()
    assert rest == {"items": revisions, "next_cursor": None}


def test_a_call_ends_on_the_definition_that_it_began_with(
    start_service: StartService, version: str, tmp_path: Path
) -> None:
    """One that runs and one that is queued during a change end on the former definition; the next call is the new's."""
    sizes = {"V1_POOL_SIZE": 1, "V2_POOL_SIZE": 1}
    service = start_service(POOL_VERSION=version, **sizes)
    fields = {"directory": "string", "name": "string"}
    changed(service, "p", definition("hold", fields))
    with concurrent.futures.ThreadPoolExecutor(3) as callers:

        def call(name: str) -> "concurrent.futures.Future[httpx.Response]":
            return callers.submit(service.execute, "p", inputs={"directory": str(tmp_path), "name": name})

        running = call("running")
        wait_until(lambda: bool(list(tmp_path.glob("running.*"))), "the first call runs")
        queued = call("queued")
        wait_until(lambda: service.pool(version)["queue_depth"] == 1, "the second call is queued")
        changed(service, "p", definition("echo", {"nonce": "string"}))
        after = callers.submit(service.execute, "p", inputs={"nonce": "new"})
        (tmp_path / "go").touch()
        answers = [one.result() for one in (running, queued, after)]
    assert [answer.status_code for answer in answers] == [200] * 3, [answer.text for answer in answers]
    assert [answer.json()["outputs"]["result"] for answer in answers] == ["running", "queued", "new"]
    assert service.client.get("/programs/p").json()["execution_count"] == 3


def test_under_load_no_call_fails(shared_service: Service, version: str) -> None:
    """While a program changes without a pause, each call runs one definition or the other."""
    program = f"load-{version}"
    bodies = [definition("echo"), definition("async_echo", instructions="Another way.")]
    changed(shared_service, program, bodies[0])
    statuses: list[int] = []
    stop = threading.Event()

    def call() -> None:
        with httpx.Client(base_url=shared_service.url, timeout=30) as client:
            while not stop.is_set():
                answer = client.post(f"/programs/{program}/execute", json={"inputs": {"nonce": "a"}})
                statuses.append(answer.status_code)

    with concurrent.futures.ThreadPoolExecutor(2) as callers:
        calls = [callers.submit(call) for _ in range(2)]
        try:
            for number in range(1, 31):
                assert changed(shared_service, program, bodies[number % 2])["revision"] == number + 1
            wait_until(lambda: len(statuses) > 50, "calls were made")
        finally:
            stop.set()
    for one in calls:
        one.result()
    assert set(statuses) == {200}
    assert shared_service.client.get(f"/programs/{program}").json()["execution_count"] == len(statuses)


def test_of_changes_at_once_one_wins(shared_service: Service, version: str) -> None:
    """With one revision in If-Match; the others are told which one is in force."""
    program = f"race-{version}"
    changed(shared_service, program, definition())
    bodies = [definition(instructions=str(number)) for number in range(6)]
    with concurrent.futures.ThreadPoolExecutor(len(bodies)) as writers:
        answers = list(writers.map(lambda body: put(shared_service, program, body, if_match='"1"'), bodies))
    assert sorted(answer.status_code for answer in answers) == [200, *[412] * 5]
    assert {answer.json()["revision"] for answer in answers} == {2}


def test_a_new_definition_is_not_in_quarantine(start_service: StartService, version: str) -> None:
    """Deaths of the former definition do not count against the one that mends it, nor against a return to it."""
    service = start_service(POOL_VERSION=version)
    crash = definition("exits_hard", {"code": "integer"})
    changed(service, "p", crash)
    for _ in range(3):
        problem(service.execute("p", inputs={"code": 3}), 502, "worker_crashed")
    problem(service.execute("p", inputs={"code": 3}), 503, "program_quarantined")
    changed(service, "p", definition())
    assert service.execute("p", inputs={"nonce": "mended"}).status_code == 200
    changed(service, "p", crash)
    problem(service.execute("p", inputs={"code": 3}), 502, "worker_crashed")


def test_a_change_outlives_a_restart(start_service: StartService) -> None:
    """The definition in force, its revision and the former ones are in the store before the answer."""
    service = start_service()
    changed(service, "p", definition("fail", {"message": "string"}))
    changed(service, "p", definition())
    before = [service.client.get(path).json() for path in ("/programs/p", "/programs/p/revisions")]
    assert service.process is not None
    service.process.kill()
    service.process.wait()
    service.start()
    assert [service.client.get(path).json() for path in ("/programs/p", "/programs/p/revisions")] == before
    assert service.execute("p", inputs={"nonce": "a"}).status_code == 200


@pytest.mark.parametrize("session", [None, "a"])
def test_quotas_count_the_new_size(start_service: StartService, session: str | None) -> None:
    """A replacement is not one more program and needs room for what it has more, whatever its revisions take."""
    name = "QUOTA_DEFINITION_BYTES" if session is None else "QUOTA_DEFINITION_BYTES_PER_SESSION"
    service = start_service(QUOTA_PROGRAMS=1, QUOTA_PROGRAMS_PER_SESSION=1, **{name: 60_000})
    query = "" if session is None else f"?session_id={session}"
    for letter in "abcd":
        changed(service, "p", definition(instructions=letter * 50_000), query)
    body = definition(instructions="e" * 60_000)
    assert problem(put(service, "p", body, query), 429, "quota_exceeded")["quota"] == name
    dry_query = f"{query}&dry_run=true" if query else "?dry_run=true"
    assert problem(put(service, "p", body, dry_query), 429, "quota_exceeded")["quota"] == name
    assert problem(put(service, "q", definition(), query), 429, "quota_exceeded")["quota"].startswith("QUOTA_PROGRAMS")
