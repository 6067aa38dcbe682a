"""The span of one call of an LM, by the conventions for generative AI; without the text of prompts and answers."""

from opentelemetry import trace
from opentelemetry.util.types import AttributeValue

from poolshift.worker.tracing import span_names


def is_recorded() -> bool:
    """Says if a span of the current execution is recorded."""
    return trace.get_current_span().is_recording()


def begin(model_name: str) -> trace.Span:
    """Begins the span; `model_name` is a model as DSPy names it, with its provider."""
    provider, _, model = model_name.rpartition("/")
    attributes: dict[str, AttributeValue] = {
        span_names.GEN_AI_OPERATION: span_names.CHAT,
        span_names.GEN_AI_MODEL: model,
    }
    if provider:
        attributes[span_names.GEN_AI_PROVIDER] = provider
    tracer = trace.get_tracer("poolshift")
    return tracer.start_span(f"{span_names.CHAT} {model}", kind=trace.SpanKind.CLIENT, attributes=attributes)


def end(span: trace.Span, tokens: list[tuple[int, int]], error: BaseException | None) -> None:
    """Ends the span with the tokens of prompt and completion, if they are known."""
    for prompt, completion in tokens:
        span.set_attribute(span_names.GEN_AI_INPUT_TOKENS, prompt)
        span.set_attribute(span_names.GEN_AI_OUTPUT_TOKENS, completion)
    if error is not None:
        span.set_attribute(span_names.ERROR_TYPE, type(error).__name__)
        span.set_status(trace.StatusCode.ERROR)  # its message may repeat the prompt
    span.end()
