"""Long runs: accepted with 202, found by their id, cancelled, and never lost without a word."""

import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import StartService
from tests.service.test_errors import problem
from tests.service.test_faults import exits, whole
from tests.support.service import Service, is_alive
from tests.support.waiting import wait_until

ASYNC = {"Prefer": "respond-async"}
ECHO = {"nonce": "string"}
HOLD = {"directory": "string", "name": "string"}


def start(service: Service, program_id: str, inputs: dict[str, Any], **body: Any) -> str:
    """Starts a long run; its place."""
    answer = service.execute(program_id, ASYNC, inputs=inputs, **body)
    assert answer.status_code == 202, answer.text
    assert answer.headers["preference-applied"] == "respond-async"
    location = answer.headers["location"]
    assert (
        location == f"/executions/{answer.json()['execution_id']}" == f"/executions/{answer.headers['x-execution-id']}"
    )
    assert answer.json()["status"] in ("queued", "running")
    return str(location)


def show(service: Service, place: str) -> dict[str, Any]:
    """Returns the view of a job."""
    answer = service.client.get(place)
    assert answer.status_code == 200, answer.text
    shown: dict[str, Any] = answer.json()
    return shown


def end_of(service: Service, place: str) -> dict[str, Any]:
    """A long run when it is over."""
    wait_until(lambda: show(service, place)["ended_at"] is not None, f"{place} is over")
    return show(service, place)


def running(directory: Path, name: str) -> int:
    """The process that `hold` runs in."""
    wait_until(lambda: any(directory.glob(f"{name}.*")), f"{name} runs")
    return int(next(directory.glob(f"{name}.*")).suffix[1:])


def test_a_long_run_ends_with_what_a_call_would_have_got(shared_service: Service, version: str) -> None:
    """The result for the one, the problem for the other, and times that follow each other."""
    echo = shared_service.create("echo", ECHO)
    labels = {"pool_version": version, "operation": "async", "outcome": "ok"}
    before = shared_service.metric("poolshift_requests_total", **labels)
    done = end_of(shared_service, start(shared_service, echo, {"nonce": "a"}, session_id="patient"))
    assert (done["status"], done["problem"], done["pool_version"]) == ("succeeded", None, version)
    assert done["result"]["outputs"] == {"result": "a"}
    assert done["result"].keys() == shared_service.execute(echo, inputs={"nonce": "a"}).json().keys()
    assert (done["program_id"], done["session_id"]) == (echo, "patient")
    assert done["created_at"] <= done["started_at"] <= done["ended_at"]
    assert shared_service.metric("poolshift_requests_total", **labels) == before + 1
    assert shared_service.client.delete(f"/executions/{done['execution_id']}").json() == done

    fails = shared_service.create("fail", {"message": "string"})
    failed = end_of(shared_service, start(shared_service, fails, {"message": "no luck"}))
    assert (failed["status"], failed["result"]) == ("failed", None)
    assert failed["problem"]["code"] == "program_error"
    assert failed["problem"]["execution_id"] == failed["execution_id"]

    crashes = shared_service.create("exits_hard", {"code": "integer"})
    failed = end_of(shared_service, start(shared_service, crashes, {"code": 3}))
    assert (failed["problem"]["code"], failed["problem"]["exit_cause"]) == ("worker_crashed", "exit code 3")


@pytest.mark.parametrize("depth", [1, 200, 250, 400])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_a_job_keeps_outputs_of_any_depth(shared_service: Service, depth: int, opening: str, closing: str) -> None:
    """The job shows what the synchronous call was answered with, however deep it is nested; its end too."""
    nested = opening * depth + "1" + closing * depth
    echo = shared_service.create("echo", {"nonce": "array"}, "array")
    body = '{"inputs": {"nonce": [' + nested + "]}}"
    answers = [
        shared_service.client.post(f"/programs/{echo}/execute", content=body, headers=headers)
        for headers in ({}, ASYNC)
    ]
    assert answers[0].status_code == 200, answers[0].text
    place = answers[1].headers["location"]
    wait_until(lambda: '"status":"succeeded"' in shared_service.client.get(place).text, "it is over")
    shown = [shared_service.client.get(place), shared_service.client.delete(place)]
    for answer in shown:
        assert answer.status_code == 200
        assert f'"outputs":{{"result":[{nested}]}}' in answer.text
    assert answers[0].text.partition('"outputs"')[2].partition(',"duration')[0] in shown[0].text


def test_one_of_several_preferences_is_enough(shared_service: Service) -> None:
    """In whichever line (RFC 9110, 5.3): a proxy may add one of its own."""
    program = shared_service.create("echo", ECHO)
    for lines in (["respond-async", "wait=5"], ["wait=5", "respond-async"]):
        headers = [("Prefer", line) for line in lines]
        answer = shared_service.client.post(
            f"/programs/{program}/execute", json={"inputs": {"nonce": "a"}}, headers=headers
        )
        assert answer.status_code == 202, answer.text


def test_what_is_refused_is_refused_at_once(shared_service: Service) -> None:
    """A wrong request is no execution; wrong inputs, which a worker finds, are a failed one."""
    echo = shared_service.create("echo", ECHO)
    problem(shared_service.execute("nothing", ASYNC), 404, "program_not_found")
    problem(shared_service.execute(echo, ASYNC, surprise=1), 422, "invalid_request")
    failed = end_of(shared_service, start(shared_service, echo, {"nonce": 1}))
    assert (failed["problem"]["code"], failed["problem"]["field"]) == ("invalid_inputs", "nonce")
    problem(shared_service.client.get("/executions/nothing"), 404, "execution_not_found")
    problem(shared_service.client.delete("/executions/nothing"), 404, "execution_not_found")


def test_every_call_that_is_shed_is_counted(start_service: StartService, version: str, tmp_path: Path) -> None:
    """One call runs and one waits; the metrics count all others, refused at once or shed by the pool."""
    service = start_service(POOL_VERSION=version, V1_POOL_SIZE=1, V2_POOL_SIZE=1, QUEUE_LIMIT=1, DRAIN_TIMEOUT_S=0.1)
    program = service.create("hold", HOLD)
    calls = 8
    start(service, program, {"directory": str(tmp_path), "name": "0"})
    wait_until(lambda: any(tmp_path.glob("0.*")), "the first runs")
    inputs = {"directory": str(tmp_path), "name": "1"}
    with ThreadPoolExecutor(calls) as callers:  # at once: a job that the pool sheds makes room for the next
        sent = [callers.submit(service.execute, program, ASYNC, inputs=inputs) for _ in range(calls)]
    answers = [one.result().status_code for one in sent]
    assert set(answers) == {202, 503}
    labels = {"pool_version": version, "code": "pool_overloaded"}
    wait_until(lambda: service.metric("poolshift_errors_total", **labels) == calls - 1, "all but one are shed")
    labels = {"pool_version": version, "operation": "async", "outcome": "pool_overloaded"}
    assert service.metric("poolshift_requests_total", **labels) == calls - 1


def test_the_deadline_holds_for_long_runs_too(shared_service: Service) -> None:
    sleep = shared_service.create("sleep", {"seconds": "number"}, "number")
    failed = end_of(shared_service, start(shared_service, sleep, {"seconds": 60}, timeout_s=0.3))
    assert (failed["status"], failed["problem"]["code"]) == ("failed", "execution_timeout")


def test_a_job_asks_for_its_time(start_service: StartService, version: str) -> None:
    """A job may outlast a call, by its request, by its program or by itself. More than the limit is refused."""
    service = start_service(POOL_VERSION=version, EXECUTION_TIMEOUT_S=0.3, JOB_TIMEOUT_S=40)
    sleep = service.create("sleep", {"seconds": "number"}, "number")
    patient = service.create("sleep", {"seconds": "number"}, "number", timeout_s=30)
    hasty = service.create("sleep", {"seconds": "number"}, "number", timeout_s=0.2)
    places = [start(service, program, {"seconds": 0.8}) for program in (sleep, patient)]
    places.append(start(service, sleep, {"seconds": 0.8}, timeout_s=40))
    assert {end_of(service, place)["status"] for place in places} == {"succeeded"}
    assert end_of(service, start(service, hasty, {"seconds": 60}))["problem"]["code"] == "execution_timeout"

    for program, headers, asked, words in (
        (sleep, {}, 10, ("10 s is over EXECUTION_TIMEOUT_S (0.3 s)", "Prefer: respond-async", "up to 40 s")),
        (patient, {}, 10, ("EXECUTION_TIMEOUT_S (0.3 s)", "respond-async", "up to 30 s")),
        (hasty, {}, 10, ("the program's own timeout_s (0.2 s)",)),
        (sleep, ASYNC, 41, ("JOB_TIMEOUT_S (40 s)",)),
        (patient, ASYNC, 31, ("the program's own timeout_s (30 s)",)),
        (sleep, {"Accept": "text/event-stream"}, 10, ("EXECUTION_TIMEOUT_S", "respond-async")),
    ):
        refused = service.execute(program, headers, inputs={"seconds": 0}, timeout_s=asked)
        detail = problem(refused, 422, "invalid_request")["detail"]
        assert all(word in detail for word in words), detail
        assert ("respond-async" in detail) == ("respond-async" in " ".join(words)), detail
    refused = service.client.post(f"/programs/{sleep}/batch", json={"inputs": [{"seconds": 0}], "timeout_s": 10})
    assert "EXECUTION_TIMEOUT_S" in problem(refused, 422, "invalid_request")["detail"]
    late = problem(service.execute(patient, inputs={"seconds": 60}), 504, "execution_timeout")
    assert "EXECUTION_TIMEOUT_S is 0.3 s" in late["detail"]
    assert "up to 30 s" in late["detail"]
    assert service.pool(version)["service_time_s"] < 0.8  # no job makes a short call look too slow to wait


def test_no_program_may_ask_for_more_than_a_job_gets(shared_service: Service) -> None:
    """The mistake is told when the program is made, not when its first call is cut."""
    body = {"program_type": "python", "entrypoint": "examples.basics:echo", "timeout_s": 3601}
    for answer in (
        shared_service.client.post("/programs", json=body),
        shared_service.client.put("/programs/too-patient", json=body),
    ):
        assert "JOB_TIMEOUT_S (3600 s)" in problem(answer, 422, "invalid_request")["detail"]


def test_a_job_keeps_as_large_a_result_as_a_call_gets(shared_service: Service) -> None:
    """Twenty megabytes, byte by byte."""
    big = shared_service.create("big", {"size": "integer"})
    at_once = shared_service.execute(big, inputs={"size": 20_000_000}).json()["outputs"]
    done = end_of(shared_service, start(shared_service, big, {"size": 20_000_000}))
    assert done["status"] == "succeeded"
    assert done["result"]["outputs"] == at_once


def test_long_runs_are_listed_page_by_page(shared_service: Service, version: str) -> None:
    """The pages list each job of the session once, the newest first."""
    echo = shared_service.create("echo", ECHO)
    session = f"lister-{version}"
    places = [start(shared_service, echo, {"nonce": "a"}, session_id=session) for _ in range(5)]
    for place in places:
        end_of(shared_service, place)
    seen: list[str] = []
    query = {"session_id": session, "limit": "2"}
    while True:
        page = shared_service.client.get("/executions", params=query).json()
        seen += [f"/executions/{item['execution_id']}" for item in page["items"]]
        assert all(item["status"] == "succeeded" and "result" not in item for item in page["items"])
        if page["next_cursor"] is None:
            break
        query["cursor"] = page["next_cursor"]
    assert seen == places[::-1]


def test_cancelling_kills_what_runs(start_service: StartService, version: str, tmp_path: Path) -> None:
    """One that runs, one that waits, one whose session ends; and no more than there is room for are accepted."""
    service = start_service(POOL_VERSION=version, V1_POOL_SIZE=1, V2_POOL_SIZE=1, QUEUE_LIMIT=1, CHECKOUT_TIMEOUT_S=30)
    hold = service.create("hold", HOLD)
    places = []
    for name in ("first", "second"):
        places.append(start(service, hold, {"directory": str(tmp_path), "name": name}, session_id="ends"))
        pid = running(tmp_path, "first")
    assert [show(service, place)["status"] for place in places] == ["running", "queued"]
    wait_until(lambda: service.pool(version)["queue_depth"] == 1, "the second is queued")

    # The queue is full: one more is accepted, and fails as a call would have; that nobody waits makes no difference.
    failed = end_of(service, start(service, hold, {"directory": str(tmp_path), "name": "third"}))
    assert (failed["status"], failed["problem"]["code"]) == ("failed", "pool_overloaded")

    assert service.client.delete(places[1]).json()["status"] == "cancelled"
    assert service.client.delete(places[0]).json()["status"] == "cancelled"
    wait_until(lambda: not is_alive(pid), "the program of the first is dead")
    wait_until(lambda: exits(service, version, "cancelled") == 1, "its worker has been killed for that")
    assert [show(service, place)["status"] for place in places] == ["cancelled", "cancelled"]
    wait_until(lambda: whole(service, version), "the worker is back")

    place = start(service, hold, {"directory": str(tmp_path), "name": "ending"}, session_id="ends")
    pid = running(tmp_path, "ending")
    assert service.client.delete("/sessions/ends").status_code == 204
    wait_until(lambda: not is_alive(pid), "the session's program is dead")
    for gone in (*places, place):
        wait_until(lambda gone=gone: service.client.get(gone).status_code == 404, "its executions are gone")  # type: ignore[misc]


def test_no_long_run_is_lost_in_silence(start_service: StartService, version: str, tmp_path: Path) -> None:
    """A job is `interrupted` if a kill or a shutdown ends it, and has its result if it ends within the drain.

    The service forgets all jobs after EXECUTION_TTL_S.
    """
    service = start_service(POOL_VERSION=version)
    hold, echo = service.create("hold", HOLD), service.create("echo", ECHO)
    done = start(service, echo, {"nonce": "kept"})
    end_of(service, done)
    killed = start(service, hold, {"directory": str(tmp_path), "name": "killed"})
    running(tmp_path, "killed")
    service.stop(signal.SIGKILL)
    service.start()
    assert show(service, killed)["status"] == "interrupted"
    assert show(service, killed)["ended_at"] is not None
    assert show(service, done)["result"]["outputs"] == {"result": "kept"}

    goes_on, hangs = tmp_path / "goes on", tmp_path / "hangs"
    goes_on.mkdir()
    hangs.mkdir()
    drained = start(service, hold, {"directory": str(goes_on), "name": "drained"})
    running(goes_on, "drained")
    ended = start(service, hold, {"directory": str(hangs), "name": "ended"})
    assert service.process is not None
    service.process.terminate()
    wait_until(lambda: "draining" in service.log(), "the service drains")
    problem(service.execute(echo, ASYNC, inputs={"nonce": "late"}), 503, "pool_closed")
    (goes_on / "go").touch()
    assert end_of(service, drained)["status"] == "succeeded"
    pid = running(hangs, "ended")
    assert service.stop() == 0  # the second signal ends the drain
    assert not is_alive(pid)
    service.start()
    assert show(service, drained)["result"]["outputs"] == {"result": "drained"}
    shown = show(service, ended)
    assert (shown["status"], shown["problem"]["code"]) == ("interrupted", "pool_closed")
    assert service.stop() == 0

    forgetful = Service(service.directory, POOL_VERSION=version, EXECUTION_TTL_S=0.2)
    try:
        forgetful.start()
        for place in (done, killed, drained, ended):
            wait_until(lambda place=place: forgetful.client.get(place).status_code == 404, "it is forgotten")  # type: ignore[misc]
            problem(forgetful.client.get(place), 404, "execution_not_found")
    finally:
        forgetful.close()
