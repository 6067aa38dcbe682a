"""A retrieval module with two predictors: optimised by DSPy on the small model, saved, served."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.local_lm.process import MAX_TOKENS
from poolshift.worker.lm import LOCAL_MODEL_NAME, LMSettings
from tests.lm.conftest import field, on
from tests.lm.lazily import Lazily, dspy, needs_dspy
from tests.lm.test_lm_streaming import texts
from tests.lm.test_local import run_as_written
from tests.service.test_errors import problem
from tests.service.test_streaming import EVENTS, parse
from tests.support.pages import section
from tests.support.service import ROOT, Service

pytestmark = needs_dspy
rag: Any = Lazily("examples.rag")
client: Any = Lazily("poolshift.worker.dspy.client")

TRAINING = [
    ("What computes the bisection of sorted lists?", "bisect"),
    ("What reads and writes CSV files?", "csv"),
    ("What makes temporary files?", "tempfile"),
]
QUESTION = "Which module has heap queue algorithms?"
SIGNATURE = {"inputs": [field("question")], "outputs": [field("context", "array"), field("answer")]}


@pytest.fixture(scope="module")
def small_model() -> Iterator[LMSettings]:
    """The small model in a process of its own, for what a notebook does."""
    environment = {**os.environ, "LOCAL_LM_API_KEY": "notebook", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-P", "-m", "app.local_lm.server"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["url"]
        yield LMSettings(f"openai/{LOCAL_MODEL_NAME}", url, "notebook", 0.0, MAX_TOKENS, decodes_schema=True)
        process.stdin.close()


@pytest.fixture(scope="module")
def optimised(
    small_model: LMSettings, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The saved state of the module after its optimisation, and its outputs in this process."""

    def is_found(example: Any, prediction: Any, _trace: Any = None) -> bool:
        return any(text.startswith(f"{example.answer}:") for text in prediction.context)

    examples = [dspy.Example(question=asked, answer=named).with_inputs("question") for asked, named in TRAINING]
    optimizer = dspy.BootstrapFewShot(metric=is_found, max_bootstrapped_demos=2, max_labeled_demos=2, max_rounds=1)
    saved = tmp_path_factory.mktemp("rag") / "saved.json"
    with client.lm_context(small_model):
        module = optimizer.compile(rag.StandardLibrary(), trainset=examples)
        module.save(saved)
        outputs = module(question=QUESTION).toDict()
    return json.loads(Path(saved).read_text()), outputs


def test_the_index_finds_what_is_asked_for() -> None:
    """The best document is that of the module which the question is about."""
    index = rag.BM25(rag.documents())
    for question, module in TRAINING:
        assert index.search(question)[0].startswith(f"{module}:")
    assert len(index.search("nothing of this: zzz", 2)) == 2


def test_an_optimised_rag_module_answers_as_in_a_notebook(
    local_service: Service, optimised: tuple[dict[str, Any], dict[str, Any]], version: str
) -> None:
    """DSPy has found demonstrations for both predictors; served, they give the same outputs on either version."""
    state, outputs = optimised
    assert all(len(state[name]["demos"]) == 2 for name in ("search", "respond"))
    body = {"program_type": "dspy", "entrypoint": "examples.rag:StandardLibrary"}
    created = local_service.client.post("/programs", json={**body, "signature": SIGNATURE, "state": state})
    assert created.status_code == 201, created.text
    program = created.json()["id"]
    answer = local_service.execute(program, on(version), inputs={"question": QUESTION})
    assert answer.status_code == 200, answer.text
    assert answer.json()["outputs"] == outputs
    streamed = local_service.execute(program, on(version) | EVENTS, inputs={"question": QUESTION})
    *events, (last, result) = parse(streamed.text)
    assert last == "result", result
    assert result["outputs"] == outputs
    assert texts(events) == {"answer": outputs["answer"]}


@pytest.mark.curl
def test_the_page_shows_it(local_service: Service) -> None:
    """The commands of the page, word for word; the signature is taken from the module."""
    created, answered = run_as_written(local_service, section((ROOT / "docs/lm.md").read_text(), "## DSPy modules"))
    signature = json.loads(created)["signature"]
    assert [one["name"] for one in signature["inputs"]] == ["question"]
    assert json.loads(answered)["outputs"].keys() == {"context", "answer"}


def test_a_state_of_another_module_is_refused(
    local_service: Service, optimised: tuple[dict[str, Any], dict[str, Any]]
) -> None:
    """A predictor that is missing in the state, or one with other fields."""
    state, _ = optimised
    body = {"program_type": "dspy", "entrypoint": "examples.rag:StandardLibrary"}
    for wrong in (
        {"search": state["search"]},
        {**state, "respond": state["search"]},
        {**state, "search": {**state["search"], "demos": ["x"]}},
    ):
        answer = local_service.client.post("/programs", json={**body, "state": wrong})
        assert "body.state" in problem(answer, 422, "invalid_request")["detail"]
