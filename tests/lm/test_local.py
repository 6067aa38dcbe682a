"""The small model of the service's own: no key, no network, real answers."""

import json
import os
import signal
from pathlib import Path
from typing import Any

from tests.conftest import StartService
from tests.lm.conftest import create, field, on
from tests.lm.test_lm_streaming import texts
from tests.service.test_streaming import EVENTS, parse
from tests.support.service import ROOT, Service, is_alive
from tests.support.waiting import wait_until

MESSAGE = {"message": "I was charged twice this month. Please refund me today!"}
TICKET = [field("text", description="A message from a customer")]
SORTED = [
    field("summary", description="What it is about, in a few words"),
    field("urgent", "boolean"),
    field("stars", "integer"),
]


def _model_pids(service: Service) -> list[int]:
    assert service.process is not None
    children = Path(f"/proc/{service.process.pid}/task/{service.process.pid}/children").read_text().split()
    return [int(pid) for pid in children if "local_lm_server" in Path(f"/proc/{pid}/cmdline").read_text()]


def test_a_predict_answers_with_the_types_asked_for(local_service: Service, version: str) -> None:
    """A real model, made to keep to the signature by its grammar."""
    program = create(local_service, TICKET, SORTED)
    answer = local_service.execute(program, inputs={"text": "The app crashes on start, help!"}, headers=on(version))
    assert answer.status_code == 200, answer.text
    outputs = answer.json()["outputs"]
    assert isinstance(outputs["summary"], str)
    assert isinstance(outputs["urgent"], bool)
    assert isinstance(outputs["stars"], int)
    assert answer.json()["usage"]["completion_tokens"] > 0
    assert local_service.metric("poolshift_lm_tokens_total", pool_version=version, kind="completion") > 0


def test_a_chain_of_thought_reasons_first(local_service: Service, version: str) -> None:
    """Its reasoning is the model's own text."""
    program = create(local_service, TICKET, [field("reasoning"), field("answer")], "chain_of_thought")
    answer = local_service.execute(program, inputs={"text": "What is the capital of France?"}, headers=on(version))
    assert answer.status_code == 200, answer.text
    assert all(isinstance(value, str) and value for value in answer.json()["outputs"].values())


def example(service: Service, name: str) -> dict[str, Any]:
    """A program of `examples/`, created as docs/lm.md says."""
    body: dict[str, Any] = json.loads((ROOT / "examples" / name).read_text())
    assert service.client.post("/programs", json=body).status_code == 201
    return body


def test_the_example_runs_as_it_is(local_service: Service) -> None:
    """`examples/support_ticket.json`."""
    body = example(local_service, "support_ticket.json")
    answer = local_service.execute(body["id"], inputs=MESSAGE)
    assert answer.status_code == 200, answer.text
    assert answer.json()["outputs"].keys() == {output["name"] for output in body["signature"]["outputs"]}


def test_the_streaming_example_streams(local_service: Service, version: str) -> None:
    """`examples/reply_draft.json`: the model's tokens as they come add up to the outputs."""
    program = "reply-draft"
    if local_service.client.get(f"/programs/{program}").status_code == 404:
        example(local_service, "reply_draft.json")
    answer = local_service.execute(program, EVENTS | on(version), inputs=MESSAGE)
    *events, (last, result) = parse(answer.text)
    assert last == "result", result
    assert texts(events) == result["outputs"]
    assert len(events) > 10
    assert result["usage"]["completion_tokens"] >= len(events)


def test_the_model_comes_back_and_goes_with_the_service(start_service: StartService) -> None:
    """One that is killed is started again, elsewhere; none outlives a service that is killed."""
    service = start_service(LM_MODEL="local")
    program = create(service, TICKET, [field("answer", "boolean")])
    [pid] = _model_pids(service)
    os.kill(pid, signal.SIGKILL)

    def is_served_by_another() -> bool:
        pids = _model_pids(service)
        return bool(pids) and pid not in pids and service.execute(program, inputs={"text": "x"}).is_success

    wait_until(is_served_by_another, "another model answers")
    [pid] = _model_pids(service)
    service.stop(signal.SIGKILL)
    wait_until(lambda: not is_alive(pid), "the model has ended with its service")
