"""Runs a program's metric, in a worker: a function of the user's that scores the outputs of a call."""

import inspect
import math
from functools import partial
from typing import Any

import msgspec

from poolshift.worker import coroutines
from poolshift.worker.definitions import Definition
from poolshift.worker.errors import InvalidOutputs
from poolshift.worker.lm import LMRun
from poolshift.worker.loading import Emit, RunBesideOthers, find_entrypoint


class Scored(msgspec.Struct):
    """A call to score."""

    inputs: dict[str, Any]
    outputs: dict[str, Any]


class MetricProgram:
    """A metric that is ready to run: `metric(inputs, outputs)`, or DSPy's `metric(example, prediction, trace=None)`.

    A metric with a third parameter called `trace` is DSPy's.
    """

    def __init__(self, definition: Definition, allowed_modules: tuple[str, ...]) -> None:
        """Raises EntrypointError."""
        self._function = find_entrypoint(definition.entrypoint or "", allowed_modules)
        self._is_of_dspy = "trace" in inspect.signature(self._function).parameters

    beside_others: RunBesideOthers | None = None

    def close(self) -> None:
        """Does nothing: a function holds nothing."""

    def run(self, inputs: bytes | memoryview, emit: Emit, lm: LMRun | None) -> bytes:
        """Returns the score as JSON. Calls of DSPy in the metric run on `lm`.

        Raises:
            InvalidOutputs: the metric returned something else than a finite number.
            LMError: the LM failed or was too slow.
            Exception: whatever the metric raises.
        """
        scored = msgspec.json.decode(inputs, type=Scored)
        run = partial(self._score, scored.inputs, scored.outputs)
        if lm is None and not self._is_of_dspy:
            returned = run()
        else:
            # Here, since a metric without DSPy is not to wait for DSPy.
            try:
                from poolshift.worker.dspy import metrics as of_dspy  # noqa: PLC0415
            except ModuleNotFoundError as error:
                if error.name != "dspy" or self._is_of_dspy:
                    raise
                returned = run()
            else:
                if self._is_of_dspy:
                    example, prediction = of_dspy.arguments(scored.inputs, scored.outputs)
                    run = partial(self._score, example, prediction)
                returned = of_dspy.scored(run, lm)
        return msgspec.json.encode({"score": _number(returned)})

    def _score(self, first: Any, second: Any) -> Any:
        return coroutines.result_of(self._function(first, second))


def _number(returned: Any) -> float:
    """The score. DSPy's metrics may return a truth value, or a prediction with a `score`."""
    value = getattr(returned, "score", returned)
    if not isinstance(value, int | float):
        raise InvalidOutputs(f"the metric returned {type(value).__name__}, not a number")
    if not math.isfinite(value):
        raise InvalidOutputs(f"the metric returned {value}")
    return float(value)
