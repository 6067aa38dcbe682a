"""The conformance tests: what every version must do, by HTTP alone. `tests/service` runs the same cases."""

import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx

from cli.validation.scratch import PROGRAMS

Case = Callable[["Target"], None]


class Mismatch(Exception):
    """An answer that is not the one that every version must give."""


@dataclass(frozen=True, slots=True)
class Target:
    """One version of a service."""

    client: httpx.Client
    version: str

    @property
    def headers(self) -> dict[str, str]:
        """The headers that force the version and mark the call as a test."""
        return {"x-pool-version": self.version, "x-poolshift-synthetic": "true"}

    def create(self, function: str, **more: Any) -> str:
        """Creates a program on a function of `poolshift.validation`, whose signature is derived."""
        body = {"program_type": "python", "entrypoint": f"{PROGRAMS}:{function}", **more}
        answer = self.client.post("/programs", json=body)
        if answer.status_code == httpx.codes.CONFLICT and answer.json()["code"] == "code_outdated":
            raise httpx.HTTPError("the code on disk has changed since the validation began")  # not a fault of V2
        expect(answer.status_code == 201, f"creation of {function}: {answer.status_code} {answer.text}")
        program_id: str = answer.json()["id"]
        return program_id

    def execute(self, program: str, headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
        """Runs a program on the version."""
        url = f"/programs/{program}/execute"
        return self.client.post(url, json={"inputs": {}, **body}, headers=self.headers | (headers or {}))

    def result(self, program: str, **body: Any) -> Any:
        """Runs a program and returns its one output."""
        answer = self.execute(program, **body)
        expect(answer.status_code == 200, f"{answer.status_code} {answer.text}")
        expect(answer.headers["x-pool-version"] == self.version, "another version has answered")
        return answer.json()["outputs"]["result"]


def expect(holds: bool, otherwise: str) -> None:  # noqa: FBT001 - one condition, one word
    """Raises Mismatch unless the condition holds."""
    if not holds:
        raise Mismatch(otherwise)


def expect_code(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Raises Mismatch unless the answer is this problem, with all of its fields."""
    expect(answer.status_code == status, f"status {answer.status_code} instead of {status}: {answer.text}")
    problem: dict[str, Any] = answer.json()
    expect(problem["code"] == code, f"code {problem['code']} instead of {code}")
    missing = {"type", "title", "status", "detail", "category", "pool_version", "execution_id", "retry_safe"} - set(
        problem
    )
    expect(not missing, f"the problem lacks {', '.join(sorted(missing))}")
    return problem


def plain_call(target: Target) -> None:
    """A plain function, a coroutine, a default, and every header of an answer."""
    program = target.create("echo")
    answer = target.execute(program, inputs={"nonce": "ä"})
    expect(answer.status_code == 200, answer.text)
    body = answer.json()
    expect(body["outputs"] == {"result": "ä"}, f"outputs {body['outputs']}")
    expect(body["pool_version"] == target.version == answer.headers["x-pool-version"], "the version is not named")
    expect(body["execution_id"] == answer.headers["x-execution-id"], "two ids for one execution")
    expect("queue;dur=" in answer.headers["server-timing"], "no Server-Timing")
    expect(target.result(program, inputs={"nonce": "a", "repeat": 3}) == "aaa", "an input is lost")
    expect(target.result(target.create("echo_later"), inputs={"nonce": "b"}) == "b", "a coroutine")


def streamed_call(target: Target) -> None:
    """Progress in order, and one result at the end."""
    program = target.create("steps")
    url, headers = f"/programs/{program}/execute", target.headers | {"accept": "text/event-stream"}
    with target.client.stream("POST", url, json={"inputs": {"count": 3}}, headers=headers) as answer:
        lines = [line for line in answer.iter_lines() if line and not line.startswith(":")]
    events = [line.partition(": ")[2] for line in lines if line.startswith("event")]
    data = [json.loads(line.partition(": ")[2]) for line in lines if line.startswith("data")]
    expect(events == ["progress"] * 3 + ["result"], f"events {events}")
    expect(data[-1]["outputs"] == {"result": 3}, f"result {data[-1]}")


def background_call(target: Target) -> None:
    """A job: accepted at once, and its result is kept."""
    program = target.create("echo")
    answer = target.execute(program, headers={"prefer": "respond-async"}, inputs={"nonce": "later"})
    expect(answer.status_code == 202, f"{answer.status_code} {answer.text}")
    location = answer.headers["location"]
    job: dict[str, Any] = {}
    for _ in range(600):
        job = target.client.get(location).json()
        if job["status"] not in ("queued", "running"):
            break
        target.execute(program, inputs={"nonce": "meanwhile"})
    expect(job["status"] == "succeeded", f"the job is {job['status']}")


def batch_call(target: Target) -> None:
    """Items in order, each with an outcome of its own."""
    program = target.create("echo")
    inputs = [{"nonce": "a"}, {"nonce": 1}, {"nonce": "c"}]
    answer = target.client.post(f"/programs/{program}/batch", json={"inputs": inputs}, headers=target.headers)
    expect(answer.status_code == 200, answer.text)
    items = answer.json()["items"]
    shown = [item.get("outputs", {}).get("result") or item["code"] for item in items]
    expect(shown == ["a", "invalid_inputs", "c"], f"items {shown}")


def resources(target: Target) -> None:
    """A program is shown, listed, replaced and deleted; a session ends with what it holds."""
    session = f"validation-{uuid.uuid4().hex}"
    program = target.create("echo", session_id=session)
    shown = target.client.get(f"/programs/{program}", params={"session_id": session})
    expect(shown.status_code == 200, shown.text)
    expect(target.result(program, session_id=session, inputs={"nonce": "mine"}) == "mine", "a session's program")
    listed = target.client.get("/programs", params={"session_id": session}).json()["items"]
    expect(program in [one["id"] for one in listed], "a session's program is not listed")
    expect(target.client.delete(f"/sessions/{session}").status_code == 204, "a session does not end")
    expect_code(target.execute(program, session_id=session, inputs={"nonce": "gone"}), 410, "session_ended")


def failures(target: Target) -> None:
    """Wrong inputs, wrong outputs, an exception, a deadline and a crash have their codes, and the next call works."""
    wrong = expect_code(target.execute(target.create("echo"), inputs={"nonce": 1}), 422, "invalid_inputs")
    expect(wrong.get("field") == "nonce", "the field is not named")
    signature = {"inputs": [{"name": "nonce", "type": "string"}], "outputs": [{"name": "result", "type": "string"}]}
    promised = target.create("wrong_type", signature=signature)
    expect_code(target.execute(promised, inputs={"nonce": "a"}), 500, "invalid_outputs")
    raised = expect_code(target.execute(target.create("raises"), inputs={"message": "boom"}), 500, "program_error")
    expect("ValueError" in raised["detail"] and "boom" in raised["detail"], f"detail {raised['detail']}")
    late = target.execute(target.create("interval"), inputs={"seconds": 30}, timeout_s=0.2)
    expect_code(late, 504, "execution_timeout")
    crashed = expect_code(target.execute(target.create("exits"), inputs={"status": 3}), 502, "worker_crashed")
    expect(bool(crashed.get("exit_cause")), "no exit_cause")
    expect(target.result(target.create("echo"), inputs={"nonce": "alive"}) == "alive", "the pool does not recover")


CASES: dict[str, Case] = {
    "plain calls": plain_call,
    "streams": streamed_call,
    "jobs": background_call,
    "batches": batch_call,
    "resources": resources,
    "failures": failures,
}
"""The conformance tests by name."""
