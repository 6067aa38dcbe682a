"""What is recorded of a sampled call inside its worker: the span `program`, and what the program hangs under it.

Imported at the first sampled call only; where the service exports traces, by the zygote already (`app.lifespan`).
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
from opentelemetry.util.types import AttributeValue

from pools import span_names
from pools.messages import Failed, Reply
from pools.recorded_spans import MAX_BYTES, MAX_SPANS, Attributes, RecordedEvent, RecordedSpan, encode_span

_LIMITS = SpanLimits(max_span_attributes=64, max_events=16, max_span_attribute_length=4096, max_links=0)


class _Ids(IdGenerator):
    """Ids that neither depend on a program's `random.seed` nor change what `random` gives it."""

    def generate_span_id(self) -> int:
        return int.from_bytes(os.urandom(8)) or 1

    def generate_trace_id(self) -> int:
        return int.from_bytes(os.urandom(16)) or 1


class _Kept(SpanProcessor):
    """Keeps what ends, until it is taken."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []
        self.dropped = 0

    def on_end(self, span: ReadableSpan) -> None:
        if len(self.spans) < MAX_SPANS:
            self.spans.append(span)
        else:
            self.dropped += 1


class ProgramTracer:
    """The tracer provider of this process: programs that use `opentelemetry-api` get it too."""

    def __init__(self) -> None:
        self._kept = _Kept()
        provider = TracerProvider(
            # Nothing is recorded but under a sampled call.
            sampler=ParentBased(ALWAYS_OFF),
            resource=Resource.get_empty(),
            shutdown_on_exit=False,
            id_generator=_Ids(),
            span_limits=_LIMITS,
        )
        provider.add_span_processor(self._kept)
        trace.set_tracer_provider(provider)
        self._tracer = provider.get_tracer("poolshift")

    @contextmanager
    def record(self, program_id: str) -> Iterator["Recording"]:
        """The scope of one execution, under the span that is the current one."""
        self._kept.spans, self._kept.dropped = [], 0
        attributes: dict[str, AttributeValue] = {span_names.PROGRAM_ID: program_id, span_names.PROCESS_PID: os.getpid()}
        with self._tracer.start_as_current_span(
            span_names.PROGRAM, attributes=attributes, record_exception=False, end_on_exit=False
        ) as span:
            yield Recording(span, self._kept)


class Recording:
    """One sampled execution."""

    def __init__(self, span: trace.Span, kept: _Kept) -> None:
        self._span = span
        self._kept = kept

    def end(self, reply: Reply) -> list[msgspec.Raw]:
        """The spans of the execution that `reply` answers, each as JSON."""
        recorded, self._kept.spans = self._kept.spans, []
        context = self._span.get_span_context()
        # A thread that an earlier execution left behind may have ended a span of its own meanwhile.
        own = [span for span in recorded if span.context is not None and span.context.trace_id == context.trace_id]
        encoded, dropped = _encode(own)
        if dropped + self._kept.dropped:
            self._span.set_attribute(span_names.PROGRAM_DROPPED_SPANS, dropped + self._kept.dropped)
        if isinstance(reply, Failed):
            self._span.set_attribute(span_names.ERROR_TYPE, reply.code)
            self._span.set_status(trace.StatusCode.ERROR)  # the message may tell of inputs: it is not for traces
        self._span.end()
        root, _ = _encode([span for span in self._kept.spans if span.context == context])
        return [msgspec.Raw(span) for span in root + encoded]


def _encode(spans: Sequence[ReadableSpan]) -> tuple[list[bytes], int]:
    """As many as there is room for, and how many are left out."""
    encoded: list[bytes] = []
    size = 0
    for span in spans:
        one = encode_span(_recorded(span))
        if one is not None and size + len(one) <= MAX_BYTES:
            encoded.append(one)
            size += len(one)
    return encoded, len(spans) - len(encoded)


def _recorded(span: ReadableSpan) -> RecordedSpan:
    assert span.context is not None
    assert span.parent is not None
    return RecordedSpan(
        name=span.name,
        span_id=trace.format_span_id(span.context.span_id),
        parent_id=trace.format_span_id(span.parent.span_id),
        began=span.start_time or 0,
        ended=span.end_time or 0,
        kind=span.kind.value,
        status=span.status.status_code.value,
        description=span.status.description,
        attributes=_attributes(span.attributes),
        events=[_event(event) for event in span.events],
    )


def _event(event: Event) -> RecordedEvent:
    return RecordedEvent(event.name, event.timestamp, _attributes(event.attributes))


def _attributes(attributes: Any) -> Attributes:
    items = (attributes or {}).items()
    return {name: list(value) if isinstance(value, tuple) else value for name, value in items}
