"""Scores calls by metrics that use DSPy: its arguments, and its LM."""

from collections.abc import Callable
from typing import Any

import dspy

from poolshift.worker.dspy.client import ask, lm_failures_of
from poolshift.worker.dspy.usage import counted_for
from poolshift.worker.lm import LMRun


def arguments(inputs: dict[str, Any], outputs: dict[str, Any]) -> tuple[dspy.Example, dspy.Prediction]:
    """Makes the arguments of DSPy's `metric(example, prediction, trace=None)` of a call."""
    return dspy.Example(**inputs).with_inputs(*inputs), dspy.Prediction(**outputs)


def scored(run: Callable[[], Any], lm: LMRun | None) -> Any:
    """Calls `run` with `lm` as DSPy's LM. Raises LMError, or whatever `run` raises."""
    if lm is None:
        return run()
    with lm_failures_of(lm.settings), counted_for(lm):
        return ask(lm, run)
