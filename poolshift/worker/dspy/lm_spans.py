"""A span for each call of an LM under a sampled call, if OpenTelemetry is installed."""

from types import ModuleType
from typing import Any

import dspy

from poolshift.worker.lm import token_count
from poolshift.worker.tracing.optional import has_api


class LMSpans(dspy.utils.BaseCallback):  # type: ignore[misc]  # DSPy is without types
    """DSPy's callback for the calls of one execution; one program may need several, one after the other."""

    def __init__(self, lm_span: ModuleType) -> None:
        super().__init__()
        self._lm_span = lm_span
        self._span: Any = None
        self._calls_before = 0

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self._calls_before = len(_usages())
        self._span = self._lm_span.begin(instance.model)

    def on_lm_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        span, self._span = self._span, None
        if span is None:
            return
        tokens = [
            (token_count(usage.get("prompt_tokens")), token_count(usage.get("completion_tokens")))
            for usage in _usages()[self._calls_before :]
        ]
        self._lm_span.end(span, tokens, exception)


def callbacks() -> list[LMSpans]:
    """The callbacks for `dspy.context`: none if nothing is recorded, since DSPy spends time on each."""
    if not _HAS_API:
        return []
    from poolshift.worker.tracing import lm_span  # noqa: PLC0415  # it needs OpenTelemetry

    return [LMSpans(lm_span)] if lm_span.is_recorded() else []


def _usages() -> list[dict[str, Any]]:
    """The tokens of each call of this execution so far, as DSPy has them."""
    return [usage for of_model in dspy.settings.usage_tracker.usage_data.values() for usage in of_model]


_HAS_API = has_api()
