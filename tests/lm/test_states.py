"""Optimised programs: what DSPy saved of one is restored, and what it did not write is refused."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from tests.lm.conftest import EVERYONES_KEY, create, field, on
from tests.lm.endpoint import Endpoint
from tests.lm.lazily import dspy, needs_dspy
from tests.service.test_errors import problem
from tests.support.service import Service

pytestmark = needs_dspy

TEXT = [field("text")]
TOPIC = [field("topic")]


def test_what_dspy_saves_is_taken(lm_service: Service, endpoint: Endpoint, version: str, tmp_path: Path) -> None:
    """The file as it is, of both types, with its LM, with a name that is another in the prompt."""
    for module, program_type in ((dspy.Predict, "predict"), (dspy.ChainOfThought, "chain_of_thought")):
        signature = dspy.Signature("größe, text -> topic", "Think like a postman.")
        optimised = module(signature)
        (predictor,) = optimised.predictors()
        demo = dspy.Example(größe="enormous", text="no power", topic="electricity", reasoning="no light")
        predictor.demos = [demo.with_inputs("text", "größe")]
        predictor.lm = dspy.LM("openai/other", api_key="sk-other")
        optimised.save(tmp_path / "saved.json")
        state = json.loads((tmp_path / "saved.json").read_text())
        program = create(lm_service, [field("größe"), *TEXT], TOPIC, program_type, state=state)
        answer = lm_service.execute(program, inputs={"größe": "small", "text": "x"}, headers=on(version))
        assert answer.json()["outputs"] == {"topic": f"everyone {EVERYONES_KEY}"}
        prompt = endpoint.prompt("everyone")
        for said in ("Think like a postman.", "enormous", "no power", "electricity"):
            assert said in prompt
        assert ("no light" in prompt) == (program_type == "chain_of_thought")


def test_a_program_saved_as_another_type_is_refused(lm_service: Service, tmp_path: Path) -> None:
    """Or one with other fields."""
    signature = {"inputs": TEXT, "outputs": TOPIC}
    for module, program_type in (
        (dspy.ChainOfThought("text -> topic"), "predict"),
        (dspy.Predict("text -> topic"), "chain_of_thought"),
        (dspy.Predict("text, more -> topic"), "predict"),
    ):
        module.save(tmp_path / "saved.json")
        state = json.loads((tmp_path / "saved.json").read_text())
        body = {"program_type": program_type, "signature": signature, "state": state}
        assert "body.state" in problem(lm_service.client.post("/programs", json=body), 422, "invalid_request")["detail"]


def test_a_pickle_is_refused(lm_service: Service, tmp_path: Path) -> None:
    """However it is wrapped: a state is a JSON object of a known form."""
    dspy.Predict("text -> topic").save(tmp_path / "saved.pkl")
    pickle = base64.b64encode((tmp_path / "saved.pkl").read_bytes()).decode()
    for state in (pickle, [pickle], {"pickle": pickle}, saved("x", [], signature=pickle)):
        body = {"program_type": "predict", "signature": {"inputs": TEXT, "outputs": TOPIC}, "state": state}
        assert "body.state" in problem(lm_service.client.post("/programs", json=body), 422, "invalid_request")["detail"]


def saved(instructions: str, demos: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """Returns the state that `dspy.Predict("text -> topic").save("x.json")` writes."""
    fields = [{"prefix": "Text:", "description": "${text}"}, {"prefix": "Topic:", "description": "${topic}"}]
    return {
        "traces": [],
        "train": [],
        "demos": demos,
        "signature": {"instructions": instructions, "fields": fields},
        "lm": None,
        "metadata": {"dependency_versions": {"python": "3.11", "dspy": "3.4.1", "cloudpickle": "3.1"}},
        **more,
    }


def test_an_optimised_program_is_restored(lm_service: Service, endpoint: Endpoint, version: str) -> None:
    """Instructions and demonstrations of a saved state are in the prompt; `has_state` says that there is one."""
    state = saved("Think like a postman.", [{"text": "no power", "topic": "electricity"}])
    program = create(lm_service, TEXT, TOPIC, state=state)
    assert lm_service.client.get(f"/programs/{program}").json()["has_state"] is True
    assert lm_service.execute(program, inputs={"text": "x"}, headers=on(version)).status_code == 200
    prompt = endpoint.prompt("everyone")
    assert "Think like a postman." in prompt
    assert "no power" in prompt
    assert "electricity" in prompt


def test_a_state_sends_nothing_elsewhere(lm_service: Service, endpoint: Endpoint) -> None:
    """A saved LM or configuration with an address of its own is not used: the key of everyone's LM stays here."""
    elsewhere = {"api_base": endpoint.base("answers", "elsewhere"), "base_url": endpoint.base("answers", "elsewhere")}
    state = saved("x", [], lm={"model": "openai/test", **elsewhere}, config=elsewhere, stage="x")
    program = create(lm_service, TEXT, TOPIC, state=state)
    answer = lm_service.execute(program, inputs={"text": "x"})
    assert answer.json()["outputs"] == {"topic": f"everyone {EVERYONES_KEY}"}
    assert not endpoint.requests["elsewhere"]


@pytest.mark.parametrize(
    "state",
    [{}, {"signature": 1}, saved("x", [], signature={"instructions": "x", "fields": []}), saved("x", [1])],  # type: ignore[list-item]
)
def test_a_state_that_does_not_fit_is_refused(lm_service: Service, state: dict[str, Any]) -> None:
    """At the creation, and it says where."""
    body = {"program_type": "predict", "signature": {"inputs": TEXT, "outputs": TOPIC}, "state": state}
    assert "body.state" in problem(lm_service.client.post("/programs", json=body), 422, "invalid_request")["detail"]


def test_a_state_is_bounded_and_not_for_python(lm_service: Service) -> None:
    """Larger than its limit, or on a program of another type, it is refused."""
    signature = {"inputs": TEXT, "outputs": TOPIC}
    large = saved("x" * 600_000, [])
    for body in (
        {"program_type": "predict", "signature": signature, "state": large},
        {"program_type": "python", "entrypoint": "examples.text:keywords", "signature": signature, "state": {}},
    ):
        assert "state" in problem(lm_service.client.post("/programs", json=body), 422, "invalid_request")["detail"]
