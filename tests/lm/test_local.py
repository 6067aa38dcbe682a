"""The small model of the service's own: no key, no network, real answers."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.conftest import StartService
from tests.lm.conftest import SMALL, create, field, on
from tests.lm.test_lm_streaming import texts
from tests.service.test_streaming import EVENTS, parse
from tests.support.pages import blocks, section
from tests.support.service import ROOT, Service, is_alive
from tests.support.waiting import wait_until

pytestmark = pytest.mark.local_model

TICKET = [field("text", description="A message from a customer")]
SORTED = [
    field("summary", description="What it is about, in a few words"),
    field("urgent", "boolean"),
    field("stars", "integer"),
]


def _model_pids(service: Service) -> list[int]:
    assert service.process is not None
    children = Path(f"/proc/{service.process.pid}/task/{service.process.pid}/children").read_text().split()
    return [int(pid) for pid in children if "local_lm.server" in Path(f"/proc/{pid}/cmdline").read_text()]


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
    """The model's own text is the reasoning."""
    program = create(local_service, TICKET, [field("reasoning"), field("answer")], "chain_of_thought")
    answer = local_service.execute(program, inputs={"text": "What is the capital of France?"}, headers=on(version))
    assert answer.status_code == 200, answer.text
    assert all(isinstance(value, str) and value for value in answer.json()["outputs"].values())


def run_as_written(service: Service, text: str) -> list[str]:
    """Runs each command in the shell blocks of a page as it is written there, and returns their output."""
    commands = [line for block in blocks(text) if block.info == "sh" for line in unfolded(block.text)]
    return [
        subprocess.run(
            ["bash", "-c", command.replace("localhost:8000", f"127.0.0.1:{service.port}")],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
            timeout=30,
        ).stdout
        for command in commands
    ]


def unfolded(text: str) -> list[str]:
    """A shell block's commands, each in one line."""
    return text.replace("\\\n", "").splitlines()


@pytest.mark.curl
@pytest.mark.parametrize(
    ("path", "heading"),
    [
        ("README.md", "### A program on a language model"),
        ("docs/lm.md", "## The first one, without a key"),
        ("docs/lm.md", "## While it writes"),
    ],
)
def test_a_newcomers_commands_do_what_the_pages_say(local_service: Service, path: str, heading: str) -> None:
    """Word for word: each program of `examples/` is there (it may have been before), and each call is answered."""
    printed = run_as_written(local_service, section((ROOT / path).read_text(), heading))
    for created, answered in zip(printed[::2], printed[1::2], strict=True):
        program = json.loads(created)
        assert program.get("code") == "program_exists" or program["program_type"] == "predict", created
        if answered.startswith("event:"):
            *events, (last, result) = parse(answered)
            assert last == "result"
            assert texts(events) == result["outputs"]
            assert len(events) > 10
        else:
            assert json.loads(answered)["outputs"].keys() == {"summary", "urgent", "priority"}


def test_a_chain_of_thought_is_streamed(local_service: Service, version: str) -> None:
    """Each text under its name, in the signature's order; an event is a token, or some of them."""
    program = create(local_service, TICKET, [field("reasoning"), field("answer")], "chain_of_thought")
    inputs = {"text": "What is the capital of France?"}
    answer = local_service.execute(program, EVENTS | on(version), inputs=inputs)
    *events, (last, result) = parse(answer.text)
    assert last == "result", result
    assert texts(events) == result["outputs"]
    assert list(result["outputs"]) == ["reasoning", "answer"]
    assert 2 <= len(events) <= result["usage"]["completion_tokens"]


def test_what_was_asked_before_makes_no_difference(local_service: Service, version: str) -> None:
    """The same call has the same answer, streamed or not, whatever the model is asked in between."""
    explain = create(local_service, [field("term")], [field("explanation", description="One simple sentence")])
    other = create(local_service, TICKET, SORTED)
    plain, streamed = [], []
    for number in range(2):
        for headers in (on(version), EVENTS | on(version)):
            answer = local_service.execute(explain, headers, inputs={"term": "photosynthesis"})
            if headers.keys() >= EVENTS.keys():
                streamed.append(parse(answer.text)[-1][1]["outputs"])
            else:
                plain.append(answer.json()["outputs"])
            local_service.execute(other, on(version), inputs={"text": f"Number {number} does not work."})
    assert len(plain[0]["explanation"]) > 20
    assert plain + streamed == [plain[0]] * 4


def test_the_model_comes_back_and_goes_with_the_service(start_service: StartService) -> None:
    """One that is killed is started again, elsewhere; none outlives a service that is killed."""
    service = start_service(LM_MODEL="local", **SMALL)
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
