"""`Idempotency-Key`: each call is carried out once, however often it is sent, and whatever happens in between."""

import concurrent.futures
import signal
import uuid
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import StartService
from tests.service.test_async_executions import ASYNC, ECHO, HOLD, end_of, running
from tests.service.test_async_executions import start as start_long_run
from tests.service.test_errors import problem
from tests.support.service import Service
from tests.support.waiting import wait_until

EVENTS = {"Accept": "text/event-stream"}


def keyed(key: str | None = None, **more: str) -> dict[str, str]:
    """Headers with a key, a new one unless it is given."""
    return {"Idempotency-Key": key or str(uuid.uuid4()), **more}


def runs(service: Service, program: str) -> int:
    """The number of calls of a program."""
    count: int = service.client.get(f"/programs/{program}").json()["execution_count"]
    return count


def held(tmp_path: Path, name: str) -> dict[str, Any]:
    return {"directory": str(tmp_path), "name": name}


def same(first: httpx.Response, second: httpx.Response) -> None:
    """The second answer is the first again, and says so."""
    assert (second.status_code, second.content) == (first.status_code, first.content)
    assert "idempotent-replayed" not in first.headers
    assert second.headers["idempotent-replayed"] == "true"
    for name in ("x-execution-id", "x-pool-version", "content-type", "location"):
        assert second.headers.get(name) == first.headers.get(name)


@pytest.mark.parametrize("form", ["execute", "async", "batch"])
def test_the_first_answer_comes_again(shared_service: Service, form: str) -> None:
    """For every form of call. The key with another body, program or form is refused; another key is another call."""
    service = shared_service
    echo, other = service.create("echo", ECHO), service.create("echo", ECHO)

    def send(headers: dict[str, str], program: str = echo, nonce: str = "a", what: str = form) -> httpx.Response:
        if what == "batch":
            body = {"inputs": [{"nonce": nonce}, {"nonce": 1}]}
            return service.client.post(f"/programs/{program}/batch", json=body, headers=headers)
        more = ASYNC if what == "async" else {}
        return service.execute(program, {**headers, **more}, inputs={"nonce": nonce})

    headers = keyed()
    first = send(headers)
    assert first.status_code < 300, first.text
    for _ in range(3):
        same(first, send(headers))
    wait_until(lambda: runs(service, echo) > 0, "a job has begun")
    assert runs(service, echo) == {"batch": 2}.get(form, 1)
    problem(send(headers, nonce="b"), 409, "idempotency_conflict")
    problem(send(headers, program=other), 409, "idempotency_conflict")
    problem(send(headers, what="execute" if form != "execute" else "async"), 409, "idempotency_conflict")
    assert send(keyed()).status_code == first.status_code
    service.client.delete(f"/programs/{echo}")
    same(first, send(headers))


def test_a_failure_of_the_program_is_an_answer(shared_service: Service) -> None:
    """A failure comes again. An error before the program started releases the key, and the next call with it runs."""
    service = shared_service
    fails, echo = service.create("fail", {"message": "string"}), service.create("echo", ECHO)
    headers = keyed()
    first = service.execute(fails, headers, inputs={"message": "no luck"})
    problem(first, 500, "program_error")
    same(first, service.execute(fails, headers, inputs={"message": "no luck"}))
    assert runs(service, fails) == 1

    headers = keyed()
    for _ in range(2):
        refused = service.execute(echo, headers, inputs={"nonce": 1})
        problem(refused, 422, "invalid_inputs")
        assert "idempotent-replayed" not in refused.headers
    problem(service.execute("later", headers), 404, "program_not_found")
    assert service.execute(echo, headers, inputs={"nonce": "a"}).status_code == 200


def test_a_job_that_never_started_frees_its_key(start_service: StartService, version: str, tmp_path: Path) -> None:
    """As a call does: its problem says that it may be sent again, and the next one with the key is a job of its own."""
    service = start_service(V1_POOL_SIZE=1, V2_POOL_SIZE=1, CHECKOUT_TIMEOUT_S=0.2)
    hold, echo = service.create("hold", HOLD), service.create("echo", ECHO)
    start_long_run(service, hold, held(tmp_path, "busy"))
    running(tmp_path, "busy")
    headers = keyed(**ASYNC)
    first = service.execute(echo, headers, inputs={"nonce": "a"})
    ended = end_of(service, first.headers["location"])
    assert (ended["status"], ended["problem"]["code"]) == ("failed", "checkout_timeout")
    (tmp_path / "go").touch()
    wait_until(lambda: service.pool(version)["idle"] == 1, "the worker is free")
    second = service.execute(echo, headers, inputs={"nonce": "a"})
    assert "idempotent-replayed" not in second.headers
    assert end_of(service, second.headers["location"])["result"]["outputs"] == {"result": "a"}
    same(second, service.execute(echo, headers, inputs={"nonce": "a"}))


def test_a_call_that_runs_is_not_run_beside_itself(shared_service: Service, tmp_path: Path) -> None:
    """The second caller is told to wait. The call outlives its client, who has lost the answer and asks again."""
    service = shared_service
    hold = service.create("hold", HOLD)
    headers, body = keyed(), {"inputs": held(tmp_path, "once")}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{service.url}/programs/{hold}/execute", json=body, headers=headers, timeout=1)
    running(tmp_path, "once")
    again = service.execute(hold, headers, **body)
    assert problem(again, 409, "idempotency_conflict")["retry_safe"] is True
    assert again.headers["retry-after"] == "1"
    (tmp_path / "go").touch()
    wait_until(lambda: service.execute(hold, headers, **body).status_code == 200, "the first call has ended")
    assert service.execute(hold, headers, **body).json()["outputs"] == {"result": "once"}
    assert len(list(tmp_path.glob("once.*"))) == 1


def test_many_at_once_run_once(shared_service: Service) -> None:
    """Calls and jobs, all sent at the same moment; every answer is the first or says that the first runs."""
    service = shared_service
    program = service.create("slow_echo", {"nonce": "string", "seconds": "number"})

    def jobs() -> int:
        items = service.client.get("/executions", params={"limit": 1000}).json()["items"]
        return sum(item["program_id"] == program for item in items)

    for more, count in (({}, lambda: runs(service, program)), (ASYNC, jobs)):
        headers = keyed(**more)
        with concurrent.futures.ThreadPoolExecutor(12) as callers:
            inputs = {"nonce": "a", "seconds": 0.2}
            sent = [callers.submit(service.execute, program, headers, inputs=inputs) for _ in range(12)]
            answers = [one.result() for one in sent]
        assert {answer.status_code for answer in answers} <= {200, 202, 409}
        assert len({answer.content for answer in answers if answer.status_code != 409}) == 1
        assert count() == 1


@pytest.mark.parametrize(
    ("key", "is_fine"),
    [
        ("8e03978e-40d5-43e8-bc93-6894a57f9324", True),
        ('"0b0d5f0c-1f3c-4d35-a2a0-8d2b8c2a3f11"', True),
        (r'"a \"quoted\" \\ key"', True),
        ("k" * 255, True),
        ("k" * 256, False),
        ("", False),
        ('""', False),
        ('"open', False),
        ("two words", False),
        ("umlaut-ä", False),
    ],
)
def test_keys(shared_service: Service, key: str, is_fine: bool) -> None:
    """The draft's string, or the bare form; anything else is refused before it runs."""
    echo = shared_service.create("echo", ECHO)
    headers = [(b"idempotency-key", key.encode())]
    answer = shared_service.client.post(f"/programs/{echo}/execute", json={"inputs": {"nonce": key}}, headers=headers)
    if is_fine:
        assert answer.status_code == 200, answer.text
    else:
        assert "Idempotency-Key" in problem(answer, 422, "invalid_request")["detail"]


def test_two_keys_are_refused(shared_service: Service) -> None:
    """Neither is taken for the call's, whichever a proxy has added."""
    echo = shared_service.create("echo", ECHO)
    headers = [(b"idempotency-key", b"one"), (b"idempotency-key", b"two")]
    answer = shared_service.client.post(f"/programs/{echo}/execute", json={"inputs": {"nonce": "a"}}, headers=headers)
    assert "Idempotency-Key" in problem(answer, 422, "invalid_request")["detail"]
    assert runs(shared_service, echo) == 0


def test_a_stream_has_no_key(shared_service: Service) -> None:
    """A stream with a key is refused rather than run twice."""
    steps = shared_service.create("steps", {"count": "integer"}, "integer")
    refused = shared_service.execute(steps, keyed(**EVENTS), inputs={"count": 1})
    assert "Idempotency-Key" in problem(refused, 422, "invalid_request")["detail"]
    assert runs(shared_service, steps) == 0


def test_keys_outlive_the_service(start_service: StartService, tmp_path: Path) -> None:
    """After a kill, an answer comes again and a job starts no second time. A call that was cut is not run again.

    The call of an idempotent program is.
    """
    service = start_service(POOLS="v2")
    echo = service.create("echo", ECHO)
    cut, again = service.create("hold", HOLD), service.create("hold", HOLD, idempotent=True)
    call, job, lost, repeated = keyed(), keyed(**ASYNC), keyed(), keyed()
    answers = [service.execute(echo, headers, inputs={"nonce": "a"}) for headers in (call, job)]
    end_of(service, answers[1].headers["location"])
    with concurrent.futures.ThreadPoolExecutor(2) as callers:
        ends = [
            callers.submit(service.execute, program, headers, inputs=held(tmp_path, name))
            for program, headers, name in ((cut, lost, "cut"), (again, repeated, "again"))
        ]
        for name in ("cut", "again"):
            running(tmp_path, name)
        service.stop(signal.SIGKILL)
        assert all(isinstance(end.exception(), httpx.HTTPError) for end in ends)
    (tmp_path / "go").touch()
    service.start()
    for answer, headers in zip(answers, (call, job), strict=True):
        same(answer, service.execute(echo, headers, inputs={"nonce": "a"}))
    assert len(service.client.get("/executions").json()["items"]) == 1
    told = problem(service.execute(cut, lost, inputs=held(tmp_path, "cut")), 409, "idempotency_conflict")
    assert told["retry_safe"] is False
    assert len(list(tmp_path.glob("cut.*"))) == 1
    first = service.execute(again, repeated, inputs=held(tmp_path, "again"))
    assert first.json()["outputs"] == {"result": "again"}
    same(first, service.execute(again, repeated, inputs=held(tmp_path, "again")))


def test_a_shutdown_amid_a_call_is_its_answer(start_service: StartService, version: str, tmp_path: Path) -> None:
    """SIGTERM ends the program after the drain: what the client was told is what it is told again."""
    service = start_service(POOL_VERSION=version, DRAIN_TIMEOUT_S=0.1)
    hold, headers = service.create("hold", HOLD), keyed()
    with concurrent.futures.ThreadPoolExecutor(1) as callers:
        end = callers.submit(service.execute, hold, headers, inputs=held(tmp_path, "cut"))
        running(tmp_path, "cut")
        assert service.stop() == 0
        first = end.result()
    assert problem(first, 503, "pool_closed")["retry_safe"] is False
    (tmp_path / "go").touch()
    service.start()
    same(first, service.execute(hold, headers, inputs=held(tmp_path, "cut")))


def test_keys_end(start_service: StartService) -> None:
    """After `IDEMPOTENCY_TTL_S` a key is free for another call. Its owner has a quota until then."""
    service = start_service(POOLS="v2", IDEMPOTENCY_TTL_S=2, QUOTA_IDEMPOTENCY_KEYS_PER_OWNER=2)
    echo = service.create("echo", ECHO)
    headers = keyed()
    first = service.execute(echo, headers, inputs={"nonce": "a"})
    assert service.execute(echo, keyed(), inputs={"nonce": "a"}).status_code == 200
    refused = problem(service.execute(echo, keyed(), inputs={"nonce": "a"}), 429, "quota_exceeded")
    assert refused["quota"] == "QUOTA_IDEMPOTENCY_KEYS_PER_OWNER"

    def runs_again() -> bool:
        return service.execute(echo, headers, inputs={"nonce": "b"}).status_code == 200

    wait_until(runs_again, "the key is free")
    assert first.status_code == 200
