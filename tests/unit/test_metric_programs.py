"""Metrics as a worker runs them: the user's functions, with what they may return."""

import json
from importlib.util import find_spec
from typing import Any

import msgspec
import pytest

from poolshift.worker.definitions import Definition, Signature
from poolshift.worker.errors import InvalidOutputs
from poolshift.worker.loading import EntrypointError, check, load

MODULES = ("tests.support.shadow_programs",)
METRIC = f"{MODULES[0]}:is_good"


def score(function: str, n: int = 1, result: str = "good") -> Any:
    program = load(Definition("metric", Signature((), ()), f"{MODULES[0]}:{function}"), MODULES)
    call = msgspec.Raw(json.dumps({"inputs": {"n": n}, "outputs": {"result": result}}).encode())
    return json.loads(program.run(call, lambda *_: None, None))["score"]


def test_a_metric_takes_inputs_and_outputs() -> None:
    assert (score("is_good"), score("is_good", result="bad")) == (1.0, 0.0)


@pytest.mark.skipif(find_spec("dspy") is None, reason="DSPy is not installed")
def test_a_metric_of_dspys_works_as_it_is() -> None:
    """With an example and a prediction; a truth value is a score."""
    assert (score("dspy_metric"), score("dspy_metric", result="bad"), score("dspy_metric", n=-1)) == (1.0, 0.0, 0.0)


@pytest.mark.parametrize(("n", "reason"), [(2, "nan"), (3, "str, not a number")])
def test_what_is_no_number_is_no_score(n: int, reason: str) -> None:
    with pytest.raises(InvalidOutputs, match=reason):
        score("bad_metric", n)


def test_what_a_metric_raises_is_its_own() -> None:
    with pytest.raises(RuntimeError, match="no score"):
        score("bad_metric", 0)


@pytest.mark.parametrize(
    ("metric", "reason"),
    [
        ("json:loads", "not allowed"),
        (f"{MODULES[0]}:missing", "has no function"),
        (f"{MODULES[0]}:takes_one", "does not take inputs and outputs"),
    ],
)
def test_a_metric_that_cannot_be_one_is_refused_with_its_program(metric: str, reason: str) -> None:
    definition = Definition("python", Signature((), (), derived=True), f"{MODULES[0]}:same", metric=metric)
    with pytest.raises(EntrypointError, match=reason) as error:
        check(definition, MODULES)
    assert error.value.at == "metric"
    check(Definition("python", Signature((), (), derived=True), f"{MODULES[0]}:same", metric=METRIC), MODULES)
