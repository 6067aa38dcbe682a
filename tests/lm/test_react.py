"""`react`: an LM that calls functions of the allowed modules before it answers."""

import json
from typing import Any

import pytest

from tests.lm.conftest import create, field, on
from tests.lm.endpoint import COMPLETION_TOKENS, Endpoint
from tests.lm.lazily import dspy, needs_dspy
from tests.lm.test_lm_streaming import on_an_lm, texts
from tests.service.test_errors import crashes, problem
from tests.service.test_streaming import EVENTS, parse
from tests.support.service import Service
from tests.support.waiting import wait_until

pytestmark = needs_dspy

TOOLS = ["tests.support.programs:echo", "tests.support.programs:fail", "tests.support.programs:sleep"]
PLAN = [field("plan", "array")]
ANSWER = [field("answer")]


@pytest.fixture(scope="module")
def acting(lm_service: Service, endpoint: Endpoint) -> str:
    """A session whose LM does as the input `plan` says."""
    return on_an_lm(lm_service, "acting", endpoint.base("acts", "acting"))


def run(service: Service, session: str, version: str, plan: list[Any], **more: Any) -> Any:
    """The answer to a call of a program with all `TOOLS`."""
    program = create(service, PLAN, ANSWER, "react", tools=TOOLS)
    headers = on(version) | more.pop("headers", {})
    return service.execute(program, headers, inputs={"plan": plan}, session_id=session, **more)


def test_the_lm_calls_tools_until_it_is_done(
    lm_service: Service, endpoint: Endpoint, acting: str, version: str
) -> None:
    """The prompt describes the tools and has the result of each call; the usage counts all tokens that the LM wrote."""
    plan = [["echo", {"nonce": "first"}], ["echo", {"nonce": "second"}]]
    answer = run(lm_service, acting, version, plan)
    assert answer.status_code == 200, answer.text
    assert answer.json()["outputs"] == {"answer": "second"}
    assert answer.json()["usage"]["completion_tokens"] == 4 * COMPLETION_TOKENS
    prompt = endpoint.prompt("acting")
    assert "first" in prompt
    asked = endpoint.requests["acting"][-2]["messages"][0]["content"]
    assert all(name in asked for name in ("echo", "nonce", "fail", "sleep", "finish"))


def test_a_tool_that_raises_tells_the_lm_and_the_log(
    lm_service: Service, endpoint: Endpoint, acting: str, version: str
) -> None:
    """The LM gets the exception's type and message without a traceback; arguments that do not fit are an error too."""
    answer = run(lm_service, acting, version, [["fail", {"message": f"no such thing {version}"}]])
    assert answer.json()["outputs"] == {"answer": f"ValueError: no such thing {version}"}
    assert "programs.py" not in endpoint.prompt("acting")
    wait_until(lambda: f"ValueError: no such thing {version}" in lm_service.log(), "the log has it")
    answer = run(lm_service, acting, version, [["echo", {"surprise": 1}], ["echo", {"nonce": "after"}]])
    assert answer.json()["outputs"] == {"answer": "after"}


def test_only_the_outputs_are_streamed(lm_service: Service, acting: str, version: str) -> None:
    """Neither thoughts nor calls of tools."""
    plan = [["echo", {"nonce": "streamed"}]]
    *events, (last, result) = parse(run(lm_service, acting, version, plan, headers=EVENTS).text)
    assert last == "result", result
    assert texts(events) == result["outputs"] == {"answer": "streamed"}


@pytest.mark.parametrize("headers", [{}, EVENTS])
def test_a_tool_that_is_too_slow_is_not_the_lms_fault(
    lm_service: Service, acting: str, version: str, headers: dict[str, str]
) -> None:
    """At the deadline its worker is killed, as any program's."""
    died = crashes(lm_service)
    answer = run(lm_service, acting, version, [["sleep", {"seconds": 60}]], timeout_s=1, headers=headers)
    body = parse(answer.text)[-1][1] if answer.status_code == 200 else answer.json()
    assert body["code"] == "execution_timeout"
    assert crashes(lm_service) == died


def test_what_may_be_a_tool(lm_service: Service) -> None:
    """A tool is an allowed entrypoint that is a plain function; creating a program refuses anything else."""
    body = {"program_type": "react", "signature": {"inputs": PLAN, "outputs": ANSWER}}
    for tools, says in (
        ([], "tools are for programs of type"),
        (["os:listdir"], "not allowed"),
        (["tests.support.programs:nothing"], "has no function"),
        (["tests.support.programs:steps"], "plain function"),
        (["tests.support.programs:echo", "tests.support.programs:echo"], "the same name"),
        (["echo"], "tools.0"),
    ):
        answer = lm_service.client.post("/programs", json={**body, "tools": tools})
        assert says in problem(answer, 422, "invalid_request")["detail"]
    answer = lm_service.client.post("/programs", json={**body, "program_type": "predict", "tools": TOOLS})
    assert "tools are for" in problem(answer, 422, "invalid_request")["detail"]


def test_an_optimised_react_is_restored(
    lm_service: Service, endpoint: Endpoint, acting: str, version: str, tmp_path: Any
) -> None:
    """Both of its predictors, as DSPy saved them; and a program shows its tools."""

    def echo(nonce: str) -> str:
        return nonce

    module = dspy.ReAct("plan -> answer", tools=[echo])
    module.react.signature = module.react.signature.with_instructions("Act like a postman.")
    module.extract.predict.signature = module.extract.predict.signature.with_instructions("Write like a poet.")
    module.save(tmp_path / "saved.json")
    state = json.loads((tmp_path / "saved.json").read_text())
    program = create(lm_service, PLAN, ANSWER, "react", tools=TOOLS[:1], state=state)
    assert lm_service.client.get(f"/programs/{program}").json()["tools"] == TOOLS[:1]
    inputs = {"plan": [["echo", {"nonce": "x"}]]}
    assert lm_service.execute(program, on(version), inputs=inputs, session_id=acting).is_success
    assert "Act like a postman." in str(endpoint.requests["acting"][-2]["messages"])
    assert "Write like a poet." in endpoint.prompt("acting")
