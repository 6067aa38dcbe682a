"""Programs of type `dspy`: a module of the user's, on the LM of the session."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from tests.lm.conftest import EVERYONES_KEY, field, on
from tests.lm.endpoint import COMPLETION_TOKENS, FAILS, PROMPT_TOKENS, Endpoint
from tests.lm.lazily import Lazily, dspy, needs_dspy
from tests.lm.test_lm_streaming import on_an_lm, texts
from tests.service.test_errors import crashes, problem
from tests.service.test_faults import exits
from tests.service.test_streaming import EVENTS, parse
from tests.support.service import Service
from tests.support.waiting import wait_until

pytestmark = needs_dspy
modules: Any = Lazily("tests.lm.modules")

PIXEL = base64.b64encode(b"\x89PNG no more than a few bytes").decode()
TRIAGE = {
    "tickets": '[{"title": "a", "due": "2026-01-02"}, {"title": "b", "due": "2026-03-04"}]',
    "priority": "high",
    "team": "support",
    "first": '{"title": "a", "due": "2026-01-02"}',
}


def create_module(service: Service, name: str, **more: Any) -> str:
    """Creates a program of a class in `tests.lm.modules`, and returns its id."""
    body = {"program_type": "dspy", "entrypoint": f"tests.lm.modules:{name}", **more}
    answer = service.client.post("/programs", json=body)
    assert answer.status_code == 201, answer.text
    program_id: str = answer.json()["id"]
    return program_id


def fields(service: Service, program: str, side: str) -> dict[str, tuple[str, bool]]:
    """Returns the type of each field of a program, and tells if it is required."""
    shown = service.client.get(f"/programs/{program}").json()["signature"][side]
    return {one["name"]: (one["type"], one["required"]) for one in shown}


def test_a_module_has_the_types_of_its_signature(lm_service: Service, endpoint: Endpoint, version: str) -> None:
    """JSON becomes the Python values that the annotations name, and what the LM says comes back as JSON."""
    program = create_module(lm_service, "Typed")
    assert fields(lm_service, program, "inputs") == {
        "message": ("string", True),
        "channel": ("string", True),
        "history": ("object", True),
        "screenshot": ("string", True),
        "known": ("array", True),
    }
    assert fields(lm_service, program, "outputs") == {
        "tickets": ("array", True),
        "priority": ("string", True),
        "team": ("string", True),
        "first": ("object", True),
    }
    session = on_an_lm(lm_service, f"typed-{version}", endpoint.base("says", "typed"))
    endpoint.texts["typed"] = TRIAGE
    url = "http://127.0.0.1:9/no-such-server.png"
    inputs = {
        "message": "no power",
        "channel": "mail",
        "history": {"messages": [{"message": "hello", "team": "sales"}]},
        "screenshot": url,
        "known": [{"title": "old", "due": "2025-12-31"}],
    }
    for image in (url, f"data:image/png;base64,{PIXEL}"):
        answer = lm_service.execute(program, on(version), inputs={**inputs, "screenshot": image}, session_id=session)
        assert answer.status_code == 200, answer.text
        assert answer.json()["outputs"] == {
            "tickets": json.loads(TRIAGE["tickets"]),
            "priority": "high",
            "team": "support",
            "first": json.loads(TRIAGE["first"]),
        }
        sent = endpoint.requests["typed"][-1]["messages"]
        assert {"type": "image_url", "image_url": {"url": image}} in [
            {"type": part["type"], "image_url": {"url": part["image_url"]["url"]}}
            for part in sent[-1]["content"]
            if part["type"] == "image_url"
        ]
        assert "hello" in str(sent[1:-1])  # the history is a turn of its own
        assert "2025-12-31" in str(sent[-1])
    assert "discouraged" not in lm_service.log()  # DSPy's word on a module that is not called as such


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("channel", "pigeon", "'mail' or 'phone'"),
        ("known", [{"title": "old", "due": "never"}], "known[0].due"),
        ("history", {"messages": [1]}, "history.messages[0]"),
        ("screenshot", "/etc/passwd", "image"),
        ("screenshot", 7, "Expected"),
        ("message", None, "message"),
    ],
)
def test_an_input_that_is_not_of_its_type(
    lm_service: Service, endpoint: Endpoint, version: str, name: str, value: Any, says: str
) -> None:
    """The field is named, nothing starts, and the LM is not asked. A local file is not an image."""
    program = create_module(lm_service, "Typed")
    session = on_an_lm(lm_service, f"mistyped-{version}", endpoint.base("says", "mistyped"))
    inputs = {
        "message": "x",
        "channel": "mail",
        "history": {"messages": []},
        "screenshot": "https://example.org/x.png",
        "known": [],
    }
    answer = lm_service.execute(program, on(version), inputs={**inputs, name: value}, session_id=session)
    error = problem(answer, 422, "invalid_inputs")
    assert error["field"] == name
    assert says in error["detail"]
    assert not endpoint.requests["mistyped"]


def test_an_answer_that_is_not_of_its_type_is_the_lms(lm_service: Service, endpoint: Endpoint, version: str) -> None:
    """A value that is none of an Enum's is an `lm_error`, not the program's fault."""
    program = create_module(lm_service, "Typed")
    session = on_an_lm(lm_service, f"misspoken-{version}", endpoint.base("says", "misspoken"))
    endpoint.texts["misspoken"] = {**TRIAGE, "priority": "tremendous"}
    inputs = {
        "message": "x",
        "channel": "mail",
        "history": {"messages": []},
        "screenshot": "https://example.org/x.png",
        "known": [],
    }
    answer = lm_service.execute(program, on(version), inputs=inputs, session_id=session)
    assert "does not fit" in problem(answer, 502, "lm_error")["detail"]


def test_images_in_a_list_and_optional(lm_service: Service, endpoint: Endpoint, version: str) -> None:
    """Each by its URL; the parameter with a default may be absent."""
    program = create_module(lm_service, "Album")
    assert fields(lm_service, program, "inputs") == {"pictures": ("array", True), "cover": ("string", False)}
    session = on_an_lm(lm_service, f"album-{version}", endpoint.base("says", "album"))
    endpoint.texts["album"] = {"caption": "two trees"}
    urls = ["https://example.org/1.png", "https://example.org/2.png"]
    for more in ({}, {"cover": "https://example.org/3.png"}):
        answer = lm_service.execute(program, on(version), inputs={"pictures": urls, **more}, session_id=session)
        assert answer.json()["outputs"] == {"caption": "two trees"}
        sent = str(endpoint.requests["album"][-1]["messages"][-1])
        assert all(url in sent for url in (*urls, *more.values()))


def test_all_predictors_count_and_the_module_is_made_once(
    lm_service: Service, endpoint: Endpoint, version: str
) -> None:
    """The usage is that of both; an object of the class serves all calls of its worker; a default is the module's."""
    signature = {
        "inputs": [field("topic"), field("tone", required=False)],
        "outputs": [field("final"), field("worker", "array")],
    }
    program = create_module(lm_service, "TwoSteps", signature=signature)
    calls: dict[int, int] = {}
    for _ in range(12):
        answer = lm_service.execute(program, on(version), inputs={"topic": "x"})
        assert answer.status_code == 200, answer.text
        pid, count, made = answer.json()["outputs"]["worker"]
        calls[pid] = calls.get(pid, 0) + 1
        assert (count, made) == (calls[pid], 1)
        usage = {"prompt_tokens": 2 * PROMPT_TOKENS, "completion_tokens": 2 * COMPLETION_TOKENS}
        assert answer.json()["usage"] == usage
        assert answer.json()["outputs"]["final"] == f"everyone {EVERYONES_KEY}"
    assert "dry" in endpoint.prompt("everyone")
    assert max(calls.values()) > 1


def test_the_signature_is_taken_from_the_module(lm_service: Service, version: str) -> None:
    """The parameters of `forward`, the predictors' types where it has none, and all that it returns."""
    program = create_module(lm_service, "TwoSteps")
    assert fields(lm_service, program, "inputs") == {"topic": ("string", True), "tone": ("string", False)}
    assert fields(lm_service, program, "outputs") == {"final": ("string", True), "worker": ("any", True)}
    outputs = lm_service.execute(program, on(version), inputs={"topic": "x"}).json()["outputs"]
    assert (outputs["final"], len(outputs["worker"])) == (f"everyone {EVERYONES_KEY}", 3)
    shown = lm_service.client.get(f"/programs/{program}").json()["signature"]["inputs"][1]
    assert shown["default"] == "dry"


def test_the_outputs_of_each_return_are_told(lm_service: Service, version: str) -> None:
    """One that some `return` lacks is not required; a call of a predictor tells its outputs, not those of the last."""
    program = create_module(lm_service, "Branches")
    told = {"final": ("string", True), "pages": ("any", False), "found": ("any", False)}
    assert fields(lm_service, program, "outputs") == told
    for topic, more in (("pages", {"pages": [1, 2]}), ("dict", {"found": True}), ("x", {})):
        answer = lm_service.execute(program, on(version), inputs={"topic": topic})
        assert answer.json()["outputs"].keys() == {"final", *more}, answer.text


def test_what_a_module_returns_untold_is_not_left_out_in_silence(lm_service: Service, version: str) -> None:
    """The last predictor's outputs are the signature then, and the log names the rest."""
    program = create_module(lm_service, "Hidden")
    assert fields(lm_service, program, "outputs") == {"final": ("string", True)}
    answer = lm_service.execute(program, on(version), inputs={"topic": "x"})
    assert answer.json()["outputs"].keys() == {"final"}
    warning = "forward returns more than the derived signature has: pages; give the program a signature"
    wait_until(lambda: warning in lm_service.log(), "the warning is logged")


def test_a_derived_schema_says_what_is_checked(lm_service: Service, version: str) -> None:
    """An Enum's values and a model's members, in and out; a union of types is `any`; numpy's values become JSON."""
    program = create_module(lm_service, "Sorted")
    signature = lm_service.client.get(f"/programs/{program}").json()["signature"]
    assert signature["derived"]
    told = {one["name"]: (one["type"], one["schema"]) for one in signature["inputs"] + signature["outputs"]}
    assert told["message"] == ("string", None)
    assert told["ticket"] == ("any", {"anyOf": [{"type": "integer"}, {"type": "string"}]})
    kind, schema = told["known"]
    assert (kind, schema["$defs"]["Ticket"]["required"]) == ("array", ["title", "due"])
    kind, schema = told["priority"]
    assert (kind, schema["enum"]) == ("string", ["low", "high"])
    assert told["scores"] == ("array", {"items": {"type": "number"}, "type": "array"})
    for message in ("low", "high"):
        answer = lm_service.execute(program, on(version), inputs={"message": message, "ticket": "A-7"})
        assert answer.json()["outputs"] == {"priority": message, "scores": [0.5, 2.0]}
    answer = lm_service.execute(program, on(version), inputs={"message": "middling", "ticket": 7})
    error = problem(answer, 500, "invalid_outputs")
    assert (error["field"], error["detail"]) == (
        "priority",
        "outputs: Input should be 'low' or 'high' - at `$.priority`",
    )
    answer = lm_service.execute(program, on(version), inputs={"message": "low", "ticket": 7, "known": [{"title": "a"}]})
    error = problem(answer, 422, "invalid_inputs")
    assert error["detail"] == "inputs: Field required - at `$.known[0].due`"
    answer = lm_service.execute(program, on(version), inputs={"message": "low", "ticket": [7]})
    assert problem(answer, 422, "invalid_inputs")["field"] == "ticket"


@pytest.mark.parametrize(
    ("name", "more", "at", "says"),
    [
        ("NotOne", {}, "entrypoint", "'tests.lm.modules:NotOne' is not a subclass of dspy.Module"),
        ("Nothing", {}, "entrypoint", "has no function or class 'Nothing'"),
        ("Priority", {}, "entrypoint", "of dspy.Module"),
        ("Imported", {}, "entrypoint", "is defined in 'dspy"),
        ("_Private", {}, "entrypoint", "is private"),
        ("Broken", {}, "entrypoint", "Broken() raises FileNotFoundError: no index"),
        ("Untold", {}, "signature", "give it one"),
        ("WithoutJson", {}, "signature", "'whatever'"),
        ("Typed", {"state": {"triage": {"signature": 1}}}, "state", "'triage'"),
        ("Typed", {"state": {}}, "state", "the state has nothing of the module's predictor 'triage'"),
        ("Typed", {"program_type": "python"}, "program_type", "is a dspy.Module: use the type 'dspy'"),
        ("Typed", {"instructions": "Think."}, "", "in its module"),
        (
            "TwoSteps",
            {"signature": {"inputs": [field("subject")], "outputs": [field("final")]}},
            "entrypoint",
            "does not take the signature's inputs",
        ),
    ],
)
def test_a_module_that_cannot_run_is_refused(
    lm_service: Service, name: str, more: dict[str, Any], at: str, says: str
) -> None:
    """At the creation, with the place and the reason."""
    body = {"program_type": "dspy", "entrypoint": f"tests.lm.modules:{name}", **more}
    error = problem(lm_service.client.post("/programs", json=body), 422, "invalid_request")
    assert says in error["detail"]
    assert f"body.{at}" in error["detail"] or not at


def test_a_module_elsewhere_is_refused(lm_service: Service) -> None:
    """As any entrypoint: the operator names the modules."""
    body = {"program_type": "dspy", "entrypoint": "dspy:ReAct"}
    assert "not allowed" in problem(lm_service.client.post("/programs", json=body), 422, "invalid_request")["detail"]


@pytest.mark.parametrize("headers", [{}, EVENTS])
@pytest.mark.parametrize("behaviour", [*FAILS, "slow", "drips"])
def test_the_lms_failure_is_the_lms(
    lm_service: Service, endpoint: Endpoint, version: str, behaviour: str, headers: dict[str, str]
) -> None:
    """Whichever predictor asks, streamed or not: an `lm_error` without the key, and no worker crashes."""
    program = create_module(lm_service, "TwoSteps")
    session = on_an_lm(lm_service, f"weather-{behaviour}-{version}", endpoint.base(behaviour))
    died = crashes(lm_service)
    call = {"inputs": {"topic": "x"}, "session_id": session, "timeout_s": 2.5}
    answer = lm_service.execute(program, on(version) | headers, **call)
    if answer.status_code == 200:  # a stream begins after a while, even if it has no event
        error = parse(answer.text)[-1][1]
        assert error["code"] == "lm_error"
    else:
        error = problem(answer, 502, "lm_error")
    assert "sk-a-secret" not in answer.text
    assert answer.headers.get("retry-after") == ("7" if behaviour == "limits" else None)
    assert ("in time" in error["detail"]) == (behaviour in ("slow", "drips"))
    assert crashes(lm_service) == died
    answer = lm_service.execute(program, on(version) | headers, inputs={"topic": "x"})
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("headers", [{}, EVENTS])
@pytest.mark.parametrize(
    ("how", "behaviour", "status", "code", "says"),
    [
        ("before", "answers", 500, "program_error", "ValueError: no such text"),
        ("after", "answers", 500, "program_error", "KeyError"),
        ("wraps", "refuses", 500, "program_error", "RuntimeError: the LM said"),
        ("passes", "refuses", 502, "lm_error", "no such key"),
        ("wrong", "answers", 500, "invalid_outputs", "final"),
        ("sleeps", "answers", 504, "execution_timeout", ""),
    ],
)
def test_the_modules_own_failure_is_the_programs(
    lm_service: Service,
    endpoint: Endpoint,
    version: str,
    how: str,
    behaviour: str,
    status: int,
    code: str,
    says: str,
    headers: dict[str, str],
) -> None:
    """Exceptions, outputs and time of the module are not the LM's. An exception that quotes the key has it masked."""
    program = create_module(lm_service, "Failing", signature=_of(["text", "how"], ["final"]))
    session = on_an_lm(lm_service, f"failing-{behaviour}-{version}", endpoint.base(behaviour))
    before = len(lm_service.log())
    call = {"inputs": {"text": "x", "how": how}, "session_id": session, "timeout_s": 2.5}
    answer = lm_service.execute(program, on(version) | headers, **call)
    if answer.status_code == 200:  # after the pieces of a text
        error = parse(answer.text)[-1][1]
        assert error["code"] == code
    else:
        error = problem(answer, status, code)
    assert says in error["detail"]
    assert "sk-a-secret" not in error["detail"]
    assert "sk-a-secret" not in lm_service.log()[before:]


def _of(inputs: list[str], outputs: list[str]) -> dict[str, Any]:
    return {"inputs": [field(name) for name in inputs], "outputs": [field(name) for name in outputs]}


@pytest.mark.parametrize(("name", "inputs"), [("TwoSteps", {"topic": "x"}), ("InAsync", {"text": "x"})])
def test_the_text_of_an_output_is_streamed(
    lm_service: Service, endpoint: Endpoint, version: str, name: str, inputs: dict[str, Any]
) -> None:
    """By the predictor that writes it, with a `forward` or an `aforward`; another predictor's text is not."""
    program = create_module(lm_service, name)
    for _ in range(2):
        *events, (last, result) = parse(lm_service.execute(program, on(version) | EVENTS, inputs=inputs).text)
        assert last == "result", result
        assert texts(events) == {"final": f"everyone {EVERYONES_KEY}"}
        assert result["outputs"]["final"] == texts(events)["final"]
        assert len(events) > 2
        assert result["usage"]["completion_tokens"] == (2 if name == "TwoSteps" else 1) * COMPLETION_TOKENS
    answer = lm_service.execute(program, on(version), inputs=inputs)
    assert answer.json()["outputs"].keys() == result["outputs"].keys()
    assert answer.json()["outputs"]["final"] == result["outputs"]["final"]


@pytest.mark.parametrize("headers", [{}, EVENTS])
def test_requests_at_once(lm_service: Service, version: str, headers: dict[str, str]) -> None:
    """Predictors in threads of `dspy.Parallel` have the call's LM, and count; only the module's own thread streams."""
    program = create_module(lm_service, "Parallel")
    answer = lm_service.execute(program, on(version) | headers, inputs={"text": "x"})
    result = parse(answer.text)[-1][1] if headers else answer.json()
    assert result["outputs"] == {"final": f"everyone {EVERYONES_KEY}"}
    assert result["usage"]["completion_tokens"] == 3 * COMPLETION_TOKENS


def test_what_dspy_logs_of_a_failure_has_no_key(lm_service: Service, endpoint: Endpoint, version: str) -> None:
    """An endpoint repeats the key, and DSPy logs the error that it hides from the module."""
    program = create_module(lm_service, "Parallel")
    session = on_an_lm(lm_service, f"indiscreet-{version}", endpoint.base("refuses", f"indiscreet-{version}"))
    before = len(lm_service.log())
    answer = lm_service.execute(program, on(version), inputs={"text": "x"}, session_id=session)
    assert "a draft failed" in problem(answer, 500, "program_error")["detail"]
    wait_until(lambda: "no such key: …" in lm_service.log()[before:], "the log has DSPy's line")
    assert "sk-a-secret" not in lm_service.log()[before:]


def test_a_worker_stays_warm(lm_service: Service, version: str) -> None:
    """The thread that a streamed `forward` ran in is no reason to replace the worker."""
    program = create_module(lm_service, "TwoSteps")
    recycled = exits(lm_service, version, "recycled")
    for headers in (on(version), on(version) | EVENTS) * 3:
        assert lm_service.execute(program, headers, inputs={"topic": "x"}).status_code == 200
    assert exits(lm_service, version, "recycled") == recycled


def test_a_text_that_the_module_changes(lm_service: Service, endpoint: Endpoint, version: str) -> None:
    """The pieces are the LM's first answer, and the result is the module's, whatever it returns."""
    program = create_module(lm_service, "Shouting")
    session = on_an_lm(lm_service, f"shouting-{version}", endpoint.base("says", "shouting"))
    endpoint.texts["shouting"] = {"final": "a quiet word"}
    answer = lm_service.execute(program, on(version) | EVENTS, inputs={"text": "x"}, session_id=session)
    *events, (last, result) = parse(answer.text)
    assert last == "result", result
    assert texts(events) == {"final": "a quiet word"}
    assert result["outputs"] == {"final": "A QUIET WORD"}


def test_an_optimised_module_is_restored(lm_service: Service, endpoint: Endpoint, version: str, tmp_path: Path) -> None:
    """Instructions and demonstrations of each predictor, as DSPy saved them; a saved LM is not used."""
    module = modules.TwoSteps()
    module.draft.signature = module.draft.signature.with_instructions("Draft like a postman.")
    module.polish.predict.signature = module.polish.predict.signature.with_instructions("Polish like a jeweller.")
    module.polish.predict.demos = [dspy.Example(text="rough", tone="wry", reasoning="so", final="smooth")]
    module.set_lm(dspy.LM("openai/other", api_key="sk-other", api_base=endpoint.base("answers", "other-module")))
    module.save(tmp_path / "saved.json")
    state = json.loads((tmp_path / "saved.json").read_text())
    state["draft"]["lm"]["api_base"] = endpoint.base("answers", "other-module")
    program = create_module(lm_service, "TwoSteps", state=state)
    assert lm_service.client.get(f"/programs/{program}").json()["has_state"] is True
    answer = lm_service.execute(program, on(version), inputs={"topic": "x"})
    assert answer.json()["outputs"]["final"] == f"everyone {EVERYONES_KEY}"
    assert "Draft like a postman." in str(endpoint.requests["everyone"][-2])
    prompt = endpoint.prompt("everyone")
    assert all(said in prompt for said in ("Polish like a jeweller.", "rough", "wry", "smooth"))
    assert not endpoint.requests["other-module"]


def test_an_output_that_is_missing_is_named(lm_service: Service, version: str) -> None:
    """Not taken for the bare value of the only output."""
    signature = {"inputs": [field("topic")], "outputs": [field("summry")]}
    program = create_module(lm_service, "Misspelled", signature=signature)
    error = problem(lm_service.execute(program, on(version), inputs={"topic": "x"}), 500, "invalid_outputs")
    assert error["detail"] == "outputs: Object missing required field `summry`"
    assert error["field"] == "summry"
