"""Signatures in DSPy's string form."""

from typing import Any

import pytest

from tests.lm.conftest import field, on
from tests.lm.endpoint import Endpoint
from tests.lm.lazily import needs_dspy
from tests.lm.test_lm_streaming import on_an_lm, texts
from tests.service.test_errors import problem
from tests.service.test_streaming import EVENTS, parse
from tests.support.service import Service

pytestmark = needs_dspy

TEXT = "question, tags: list[str], kind: Literal['fact', 'guess'] -> answer, score: float, steps: list[int], sure: bool"


def create(service: Service, text: str, program_type: str = "predict", **more: Any) -> dict[str, Any]:
    """Creates a program with a signature in DSPy's string form, and returns it as shown."""
    answer = service.client.post("/programs", json={"program_type": program_type, "signature": text, **more})
    assert answer.status_code == 201, answer.text
    shown: dict[str, Any] = answer.json()
    return shown


@pytest.mark.parametrize("program_type", ["predict", "chain_of_thought"])
def test_dspys_string_form(lm_service: Service, endpoint: Endpoint, version: str, program_type: str) -> None:
    """The program shows the fields; the outputs have the types that the text names, in a stream too."""
    program = create(lm_service, TEXT, program_type, instructions="Never guess.")
    assert [(one["name"], one["type"]) for one in program["signature"]["inputs"]] == [
        ("question", "string"),
        ("tags", "array"),
        ("kind", "string"),
    ]
    assert [(one["name"], one["type"]) for one in program["signature"]["outputs"]] == [
        ("answer", "string"),
        ("score", "number"),
        ("steps", "array"),
        ("sure", "boolean"),
    ]
    session = on_an_lm(lm_service, f"stringly-{program_type}-{version}", endpoint.base("says", "stringly"))
    endpoint.texts["stringly"] = {"answer": "forty-two", "score": "0.5", "steps": "[1, 2]", "sure": "True"}
    inputs = {"question": "x", "tags": ["a"], "kind": "fact"}
    expected = {"answer": "forty-two", "score": 0.5, "steps": [1, 2], "sure": True}
    answer = lm_service.execute(program["id"], on(version), inputs=inputs, session_id=session)
    assert answer.status_code == 200, answer.text
    assert answer.json()["outputs"] == expected
    assert "Never guess." in endpoint.prompt("stringly")
    streamed = lm_service.execute(program["id"], on(version) | EVENTS, inputs=inputs, session_id=session)
    *events, (last, result) = parse(streamed.text)
    assert last == "result", result
    assert texts(events) == {"answer": "forty-two"}
    assert result["outputs"] == expected


def test_types_inside_count(lm_service: Service, endpoint: Endpoint, version: str) -> None:
    """An input that is none of a Literal's values is named; an answer that is none is the LM's error."""
    shown = create(lm_service, "kind: Literal['fact', 'guess'] -> verdict: Literal['yes', 'no']")
    (kind,), (verdict,) = shown["signature"]["inputs"], shown["signature"]["outputs"]
    assert (kind["schema"]["enum"], verdict["schema"]["enum"]) == (["fact", "guess"], ["yes", "no"])
    program = shown["id"]
    session = on_an_lm(lm_service, f"inside-{version}", endpoint.base("says", "inside"))
    endpoint.texts["inside"] = {"verdict": "perhaps"}
    answer = lm_service.execute(program, on(version), inputs={"kind": "rumour"}, session_id=session)
    assert problem(answer, 422, "invalid_inputs")["field"] == "kind"
    answer = lm_service.execute(program, on(version), inputs={"kind": "fact"}, session_id=session)
    problem(answer, 502, "lm_error")
    endpoint.texts["inside"] = {"verdict": "yes"}
    answer = lm_service.execute(program, on(version), inputs={"kind": "fact"}, session_id=session)
    assert answer.json()["outputs"] == {"verdict": "yes"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "question",
        "question -> ",
        "a -> b -> c",
        "question -> question",
        "question -> answer: antigravity",
        "question -> answer: os.PathLike",
        "question -> answer: dspy.LM",
        "question -> answer: tests.support.programs.echo",
        "question -> answer: list[os.PathLike]",
        "question -> answer: (lambda: 1)()",
        "question, *others -> answer",
        "question=1 -> answer",
        "a): import os\ndef g(b -> answer",
        "1st -> answer",
        "question -> answer: " + "list[" * 300 + "str" + "]" * 300,
        "question -> " + ", ".join(f"answer_{number}" for number in range(65)),
        "x" * 10_000 + " -> answer",
    ],
)
def test_a_text_that_is_no_signature_is_refused(lm_service: Service, text: str) -> None:
    """At the creation; no module is imported that a text names."""
    answer = lm_service.client.post("/programs", json={"program_type": "predict", "signature": text})
    assert "signature" in problem(answer, 422, "invalid_request")["detail"]
    assert lm_service.client.get("/healthz").status_code == 200


def test_a_text_is_for_the_types_that_dspy_builds(lm_service: Service) -> None:
    """A function and a module have fields of their own."""
    for program_type, entrypoint in (("python", "examples.text:keywords"), ("dspy", "tests.lm.modules:TwoSteps")):
        body = {"program_type": program_type, "entrypoint": entrypoint, "signature": "a -> b"}
        answer = lm_service.client.post("/programs", json=body)
        assert "string form" in problem(answer, 422, "invalid_request")["detail"]
    answer = lm_service.client.post("/programs", json={"program_type": "predict"})
    assert "signature" in problem(answer, 422, "invalid_request")["detail"]
    signature = {"inputs": [field("a")], "outputs": []}
    answer = lm_service.client.post("/programs", json={"program_type": "predict", "signature": signature})
    assert "outputs" in problem(answer, 422, "invalid_request")["detail"]
