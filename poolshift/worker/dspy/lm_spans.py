"""A span for each call of an LM under a sampled call, by the conventions for generative AI; without what was said."""

from typing import Any

import dspy
from opentelemetry import trace
from opentelemetry.util.types import AttributeValue

from poolshift.worker.tracing import span_names


class LMSpans(dspy.utils.BaseCallback):  # type: ignore[misc]  # DSPy is without types
    """Hears of the calls of one execution from DSPy; one program may need several, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self._span: trace.Span | None = None
        self._calls_before = 0

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        provider, _, model = instance.model.rpartition("/")
        attributes: dict[str, AttributeValue] = {
            span_names.GEN_AI_OPERATION: span_names.CHAT,
            span_names.GEN_AI_MODEL: model,
        }
        if provider:
            attributes[span_names.GEN_AI_PROVIDER] = provider
        self._calls_before = len(_usages())
        tracer = trace.get_tracer("poolshift")
        name = f"{span_names.CHAT} {model}"
        self._span = tracer.start_span(name, kind=trace.SpanKind.CLIENT, attributes=attributes)

    def on_lm_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        span, self._span = self._span, None
        if span is None:
            return
        for usage in _usages()[self._calls_before :]:
            span.set_attribute(span_names.GEN_AI_INPUT_TOKENS, usage.get("prompt_tokens") or 0)
            span.set_attribute(span_names.GEN_AI_OUTPUT_TOKENS, usage.get("completion_tokens") or 0)
        if exception is not None:
            span.set_attribute(span_names.ERROR_TYPE, type(exception).__name__)
            span.set_status(trace.StatusCode.ERROR)  # its message may repeat the prompt
        span.end()


def callbacks() -> list[LMSpans]:
    """For `dspy.context`: none where nothing is recorded, since DSPy spends time on each."""
    return [LMSpans()] if trace.get_current_span().is_recording() else []


def _usages() -> list[dict[str, Any]]:
    """What the calls of this execution have used so far, each."""
    return [usage for of_model in dspy.settings.usage_tracker.usage_data.values() for usage in of_model]
