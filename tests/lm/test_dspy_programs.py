"""DSPy programs, built from their signature and run on the LM that their session has."""

import concurrent.futures
import keyword
import os
import signal
from typing import Any

import pytest

from tests.conftest import StartService
from tests.lm.conftest import EVERYONES_KEY, SMALL, create, field, on
from tests.lm.endpoint import COMPLETION_TOKENS, COUNTS, PROMPT_TOKENS, Endpoint
from tests.lm.lazily import dspy, needs_dspy
from tests.service.test_errors import crashes, problem
from tests.service.test_faults import exits
from tests.support.service import Service
from tests.support.waiting import wait_until

pytestmark = needs_dspy

TOPIC = [field("topic")]
TEXT = [field("text")]


def test_outputs_are_typed_as_the_signature_says(lm_service: Service, version: str) -> None:
    """Every type comes back as JSON of that type, with the tokens that it took."""
    kinds = ("string", "integer", "number", "boolean", "array", "object")
    program = create(lm_service, TEXT, [field(f"a_{kind}", kind) for kind in kinds])
    answer = lm_service.execute(program, inputs={"text": "x"}, headers=on(version))
    assert answer.status_code == 200, answer.text
    assert answer.json()["outputs"] == {
        "a_string": f"everyone {EVERYONES_KEY}",
        "a_integer": 7,
        "a_number": 2.5,
        "a_boolean": True,
        "a_array": ["a", "b"],
        "a_object": {"a": 1},
    }
    assert answer.json()["usage"] == {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": COMPLETION_TOKENS}


def test_the_lm_is_told_all_that_the_program_says(lm_service: Service, endpoint: Endpoint, version: str) -> None:
    """Description, instructions, the fields' descriptions, inputs and defaults are in the prompt."""
    inputs = [
        field("text", description="what the customer wrote"),
        field("language", default="Klingon"),
        field("hint", required=False),
    ]
    outputs = [field("topic", description="one word for it")]
    signature = {"description": "Sorts the mail."}
    program = create(lm_service, inputs, outputs, instructions="Never guess.", signature=signature)
    assert lm_service.execute(program, inputs={"text": "a lost parcel"}, headers=on(version)).status_code == 200
    prompt = endpoint.prompt("everyone")
    for said in ("Sorts the mail.", "Never guess.", "what the customer wrote", "one word for it", "a lost parcel"):
        assert said in prompt
    assert "Klingon" in prompt
    assert "hint" in prompt


NAMES = [
    "a b",
    "a-b",
    "a_b",
    "1st",
    "größe",
    "_trace",
    "_",
    "__init__",
    "\U0001f600",
    "[[ ## x ## ]]",
    "{x}",
    "x" * 128,
]


def _by_sixty(names: list[str]) -> list[list[str]]:
    return [names[at : at + 60] for at in range(0, len(names), 60)]


@pytest.mark.parametrize("program_type", ["predict", "chain_of_thought"])
def test_any_name_is_a_fields_name(lm_service: Service, program_type: str) -> None:
    """Names that are no identifiers, that Python, pydantic or DSPy take for themselves, or that are on both sides."""
    taken = {*keyword.kwlist, *keyword.softkwlist, *dir(dspy.Predict), *dir(dspy.Signature), *dir(dspy.Module)}
    taken |= {"self", "signature", "demos", "config", "lm", "prediction", "new_signature", "instructions", "json"}
    for names in _by_sixty(sorted({*NAMES, *taken} - {"reasoning"})):
        fields = [field(name) for name in names]
        program = create(lm_service, fields, fields, program_type)
        answer = lm_service.execute(program, inputs={name: f"<{name}>" for name in names})
        assert answer.status_code == 200, answer.text
        assert answer.json()["outputs"] == dict.fromkeys(names, f"everyone {EVERYONES_KEY}")


@pytest.mark.parametrize("program_type", ["predict", "chain_of_thought"])
def test_an_input_that_is_left_out(lm_service: Service, endpoint: Endpoint, version: str, program_type: str) -> None:
    """A missing or null input gets its default, with its type; without a default, the LM's prompt does not have it."""
    inputs = [
        *TEXT,
        field("count", "integer", default=41),
        field("strict", "boolean", default=False),
        field("tags", "array", default=["one-tag"]),
        field("options", "object", default={"an-option": 1}),
        field("ratio", "number", default=0.125),
        field("hint", required=False),
    ]
    program = create(lm_service, inputs, TOPIC, program_type)
    given: dict[str, Any]
    for given in ({}, {"count": None, "hint": None}):
        answer = lm_service.execute(program, inputs={"text": "x", **given}, headers=on(version))
        assert answer.status_code == 200, answer.text
        asked = endpoint.requests["everyone"][-1]["messages"][-1]["content"]
        for said in ("41", "False", "one-tag", "an-option", "0.125"):
            assert said in asked
        assert "[[ ## hint ## ]]" not in asked
    answer = lm_service.execute(program, inputs={"text": "x", "count": 42, "hint": "a-hint"}, headers=on(version))
    assert answer.status_code == 200, answer.text
    asked = endpoint.requests["everyone"][-1]["messages"][-1]["content"]
    assert "42" in asked
    assert "41" not in asked
    assert "a-hint" in asked


def test_a_chain_of_thought_reasons_and_shows_it_where_asked(
    lm_service: Service, endpoint: Endpoint, version: str
) -> None:
    """The reasoning is an output where the signature has one of that name."""
    program = create(lm_service, TEXT, TOPIC, "chain_of_thought")
    answer = lm_service.execute(program, inputs={"text": "x"}, headers=on(version))
    assert answer.json()["outputs"].keys() == {"topic"}
    assert "[[ ## reasoning ## ]]" in endpoint.prompt("everyone")
    shown = create(lm_service, TEXT, [field("reasoning"), *TOPIC], "chain_of_thought")
    answer = lm_service.execute(shown, inputs={"text": "x"}, headers=on(version))
    assert answer.json()["outputs"].keys() == {"topic", "reasoning"}


def test_inputs_are_checked_as_any_programs(lm_service: Service, version: str) -> None:
    """Before the LM is asked."""
    program = create(lm_service, TEXT, TOPIC)
    answer = lm_service.execute(program, inputs={"text": 1}, headers=on(version))
    assert problem(answer, 422, "invalid_inputs")["field"] == "text"


def test_two_sessions_on_two_lms(lm_service: Service, endpoint: Endpoint, version: str) -> None:
    """A thousand calls in turns, over four workers, mixed with python programs: no answer from the wrong LM."""
    program = create(lm_service, TEXT, TOPIC)
    echo = lm_service.create("echo", {"nonce": "string"})
    names = [f"{version}-a", f"{version}-b"]
    for name in names:
        body = {"model": "openai/test", "api_base": endpoint.base("answers", name), "api_key": f"key-{name}"}
        assert lm_service.client.put(f"/sessions/{name}/lm", json=body).status_code == 200

    def call(number: int) -> Any:
        if number % 10 == 9:
            answer = lm_service.execute(echo, inputs={"nonce": str(number)}, headers=on(version))
            return answer.json()["outputs"] == {"result": str(number)} and "usage" not in answer.json()
        name = names[number % 2]
        answer = lm_service.execute(program, inputs={"text": "x"}, session_id=name, headers=on(version))
        return answer.json().get("outputs") == {"topic": f"{name} key-{name}"} or answer.text

    before = {worker["pid"]: worker["executions"] for worker in lm_service.pool(version)["workers"]}
    with concurrent.futures.ThreadPoolExecutor(8) as executor:
        assert [outcome for outcome in executor.map(call, range(1000)) if outcome is not True] == []
    after = {worker["pid"]: worker["executions"] for worker in lm_service.pool(version)["workers"]}
    assert before.keys() == after.keys()
    if version == "v2":
        assert all(count > before[pid] for pid, count in after.items())


def test_a_change_is_there_for_the_next_call(lm_service: Service, endpoint: Endpoint, version: str) -> None:
    """On every worker, whichever served the session before, and back again."""
    program = create(lm_service, TEXT, TOPIC)
    session = f"changing-{version}"
    for turn in range(20):
        name = f"turn{turn % 2}"
        body = {"model": "openai/test", "api_base": endpoint.base("answers", name), "api_key": "k"}
        lm_service.client.put(f"/sessions/{session}/lm", json=body)
        answer = lm_service.execute(program, inputs={"text": "x"}, session_id=session, headers=on(version))
        assert answer.json()["outputs"] == {"topic": f"{name} k"}
    assert lm_service.client.delete(f"/sessions/{session}/lm").status_code == 204
    answer = lm_service.execute(program, inputs={"text": "x"}, session_id=session, headers=on(version))
    assert answer.json()["outputs"] == {"topic": f"everyone {EVERYONES_KEY}"}


def test_tokens_are_counted_by_version_and_model(lm_service: Service, endpoint: Endpoint, version: str) -> None:
    """The metric counts the tokens of failed calls too; models beyond the limit share one label."""
    program = create(lm_service, TEXT, TOPIC)
    session = f"counting-{version}"

    def counted(kind: str, **labels: str) -> float:
        return lm_service.metric("poolshift_lm_tokens_total", pool_version=version, kind=kind, **labels)

    before = counted("completion")
    for number in range(25):
        body = {"model": f"openai/{number}", "api_base": endpoint.base("answers"), "api_key": "k"}
        lm_service.client.put(f"/sessions/{session}/lm", json=body)
        assert lm_service.execute(program, inputs={"text": "x"}, session_id=session, headers=on(version)).is_success
    body = {"model": "openai/0", "api_base": endpoint.base("babbles"), "api_key": "k"}
    lm_service.client.put(f"/sessions/{session}/lm", json=body)
    answer = lm_service.execute(program, inputs={"text": "x"}, session_id=session, headers=on(version))
    problem(answer, 502, "lm_error")
    assert counted("completion") - before >= 26 * COMPLETION_TOKENS
    assert counted("prompt", model="other") > 0
    models = {line.split('model="')[1].split('"')[0] for line in _lines(lm_service, "poolshift_lm_tokens_total{")}
    assert len(models) <= 21


def _lines(service: Service, start: str) -> list[str]:
    return [line for line in service.client.get("/metrics").text.splitlines() if line.startswith(start)]


@pytest.mark.parametrize(
    ("behaviour", "says"),
    [
        ("slow", "in time"),
        ("drips", "in time"),
        ("refuses", "no such key"),
        ("forbids", "not with the key"),
        ("limits", "too many"),
        ("fails", "broken"),
        ("breaks", ""),
        ("babbles", "does not fit"),
        ("garbles", ""),
        ("empty", ""),
    ],
)
def test_the_lms_weather_is_an_lm_error(
    lm_service: Service, endpoint: Endpoint, version: str, behaviour: str, says: str
) -> None:
    """Never a fault of the program or of the engine: no worker dies of it, and the next call is served."""
    program = create(lm_service, TEXT, TOPIC)
    session = f"{behaviour}-{version}"
    body = {"model": "openai/test", "api_base": endpoint.base(behaviour), "api_key": "sk-a-secret-of-mine"}
    lm_service.client.put(f"/sessions/{session}/lm", json=body)
    died = crashes(lm_service)
    call = {"inputs": {"text": "x"}, "session_id": session, "timeout_s": 2.5}
    answer = lm_service.execute(program, headers=on(version), **call)
    error = problem(answer, 502, "lm_error")
    assert error["category"] == "upstream"
    assert says in error["detail"]
    assert "sk-a-secret" not in answer.text
    assert answer.headers.get("retry-after") == ("7" if behaviour == "limits" else None)
    assert crashes(lm_service) == died
    assert lm_service.execute(program, inputs={"text": "x"}, headers=on(version)).status_code == 200


def test_nobody_there_is_an_lm_error(lm_service: Service, version: str) -> None:
    """An endpoint that cannot be reached, a key that is missing, settings that the model does not take."""
    program = create(lm_service, TEXT, TOPIC)
    unreachable = {"model": "openai/x", "api_base": "http://127.0.0.1:9/v1", "api_key": "k"}
    for number, body in enumerate((unreachable, {"model": "anthropic/x"}, {"model": "openai/o3", "temperature": 0.5})):
        session = f"nobody-{number}-{version}"
        lm_service.client.put(f"/sessions/{session}/lm", json=body)
        answer = lm_service.execute(program, inputs={"text": "x"}, session_id=session, headers=on(version))
        problem(answer, 502, "lm_error")


def test_a_worker_that_dies_under_an_lm_call_is_not_the_lms_fault(
    lm_service: Service, endpoint: Endpoint, version: str
) -> None:
    """A failure of the engine keeps its own code."""
    program = create(lm_service, TEXT, TOPIC)
    session = f"dying-{version}"
    body = {"model": "openai/test", "api_base": endpoint.base("slow", f"dying-{version}"), "api_key": "k"}
    lm_service.client.put(f"/sessions/{session}/lm", json=body)
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        call = executor.submit(
            lm_service.execute, program, inputs={"text": "x"}, session_id=session, headers=on(version)
        )
        wait_until(lambda: len(endpoint.requests[f"dying-{version}"]) == 1, "the LM is asked")
        [busy] = [worker for worker in lm_service.pool(version)["workers"] if worker["state"] == "busy"]
        os.kill(busy["pid"], signal.SIGKILL)
        problem(call.result(), 502, "worker_crashed")


def test_without_an_lm_nothing_starts(lm_service: Service, version: str) -> None:
    """`lm_not_configured`, safe to be tried again; no worker is asked."""
    program = create(lm_service, TEXT, TOPIC)
    session = f"without-{version}"
    assert lm_service.client.put(f"/sessions/{session}/lm", json={"model": "none"}).status_code == 200
    dispatched = lm_service.pool(version)["totals"]["dispatched"]
    answer = lm_service.execute(program, inputs={"text": "x"}, session_id=session, headers=on(version))
    assert problem(answer, 409, "lm_not_configured")["retry_safe"] is True
    assert answer.headers["x-pool-version"] == version
    assert lm_service.pool(version)["totals"]["dispatched"] == dispatched


def test_local_is_only_where_the_service_runs_it(lm_service: Service) -> None:
    """Elsewhere it is refused when it is set, not when it is called."""
    answer = lm_service.client.put("/lm", json={"model": "local"})
    assert "LM_MODEL=local" in problem(answer, 422, "invalid_request")["detail"]


def test_settings_are_kept_over_a_restart_and_end_with_the_session(
    start_service: StartService, endpoint: Endpoint
) -> None:
    """Everyone's and a session's; the environment counts again once it says something else."""
    service = start_service(LM_MODEL="openai/first", **SMALL)
    for path, name in (("/lm", "all"), ("/sessions/s/lm", "mine")):
        body = {"model": "openai/test", "api_base": endpoint.base("answers", name), "api_key": f"sk-{name}-0123456789"}
        assert service.client.put(path, json=body).json()["has_api_key"] is True
    program = create(service, TEXT, TOPIC)
    service.stop()
    service.start()
    assert service.execute(program, inputs={"text": "x"}).json()["outputs"] == {"topic": "all sk-all-0123456789"}
    answer = service.execute(program, inputs={"text": "x"}, session_id="s")
    assert answer.json()["outputs"] == {"topic": "mine sk-mine-0123456789"}
    assert service.client.get("/sessions/s/lm").json()["set_for"] == "session"

    assert service.client.delete("/sessions/s").status_code == 204
    assert service.client.get("/sessions/s/lm").json()["set_for"] == "everyone"
    service.stop()
    service = Service(service.directory, LM_MODEL="openai/other", PORT=service.port, **SMALL)
    try:
        service.start()
        shown = service.client.get("/lm").json()
        assert (shown["model"], shown["updated_by"]) == ("openai/other", None)
        assert service.client.get("/sessions/s/lm").json()["set_for"] == "everyone"
    finally:
        service.close()


@pytest.mark.parametrize(
    "change",
    [
        {"model": ""},
        {"model": "a b"},
        {"api_base": "ftp://x"},
        {"api_base": "http://user:word@x/v1"},
        {"api_base": "http://x/v1?key=1"},
        {"temperature": -1},
        {"max_tokens": 0},
        {"api_key": "sk-\n"},
        {"api_key": "sk-ü"},
        {"surprise": 1},
    ],
)
def test_settings_that_make_no_sense_are_refused(lm_service: Service, change: dict[str, Any]) -> None:
    """And what was there stays."""
    before = lm_service.client.get("/lm").json()
    problem(lm_service.client.put("/lm", json={"model": "openai/x", **change}), 422, "invalid_request")
    assert lm_service.client.get("/lm").json() == before


@pytest.mark.parametrize("count", COUNTS)
def test_a_number_of_tokens_that_cannot_be(lm_service: Service, endpoint: Endpoint, version: str, count: str) -> None:
    """The call ends as the LM's answer or as its error; nothing crashes, and no such number is counted."""
    program = create(lm_service, [field("text")], [field("topic")])
    session = {"model": "openai/test", "api_base": endpoint.base("boasts", count), "api_key": "sk-boast"}
    lm_service.client.put(f"/sessions/boasts-{count}/lm", json=session).raise_for_status()
    before = exits(lm_service, version, "crash")
    answer = lm_service.execute(program, on(version), inputs={"text": "x"}, session_id=f"boasts-{count}")
    assert answer.status_code in (200, 502), answer.text
    if answer.status_code == 200:
        assert answer.json()["usage"] == {"prompt_tokens": 0, "completion_tokens": 0}
    else:
        problem(answer, 502, "lm_error")
    assert exits(lm_service, version, "crash") == before
    assert lm_service.client.get("/healthz").status_code == 200


def test_a_worker_with_dspy_stays_warm(lm_service: Service, version: str) -> None:
    """DSPy's idle threads are no reason to replace it, streamed or not: it keeps the connections to its LMs."""
    program = create(lm_service, [field("text")], [field("topic")])
    recycled = exits(lm_service, version, "recycled")
    for accept in ("application/json", "text/event-stream") * 3:
        headers = {**on(version), "accept": accept}
        assert lm_service.execute(program, headers, inputs={"text": "x"}).status_code == 200
    assert exits(lm_service, version, "recycled") == recycled
