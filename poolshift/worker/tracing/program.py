"""Records a sampled call inside its worker: the span `program`, and the spans that the program puts under it.

A worker imports this at its first sampled call. If the service exports traces, the zygote has imported it already.
"""

import os
import threading
import time
from collections.abc import Callable, Iterable
from functools import cached_property, partial
from types import TracebackType
from typing import Any

import msgspec
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased

from poolshift.worker.messages import Failed, Reply
from poolshift.worker.tracing import context as trace_context
from poolshift.worker.tracing import span_names
from poolshift.worker.tracing.recorded_spans import (
    MAX_BYTES,
    MAX_SPANS,
    Attributes,
    RecordedEvent,
    RecordedSpan,
    encode_span,
)
from poolshift.worker.tracing.traceparent import Carried, span_id_of

_Given = dict[str, str | int]
_LIMITS = SpanLimits(max_span_attributes=64, max_events=16, max_span_attribute_length=4096, max_links=0)


class _Ids(IdGenerator):
    """Ids that neither depend on a program's `random.seed` nor change what `random` gives it."""

    def __init__(self) -> None:
        self.known = threading.local()
        """Has the id for the next span of this thread in `span_id`, if that is known already."""

    def generate_span_id(self) -> int:
        span_id: int | None = self.known.__dict__.pop("span_id", None)
        return span_id or _new_span_id()

    def generate_trace_id(self) -> int:
        return int.from_bytes(os.urandom(16), "big") or 1


def _new_span_id() -> int:
    return int.from_bytes(os.urandom(8), "big") or 1


class _Kept:
    """The spans of one recorded call that have ended, until they are taken."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []
        self.dropped = 0

    def add(self, span: ReadableSpan) -> None:
        """Keeps a span, if there is room for it."""
        if len(self.spans) < MAX_SPANS:
            self.spans.append(span)
        else:
            self.dropped += 1


class _Keeper(SpanProcessor):
    """Keeps what ends for the recorded calls, by their traces; what a call has left behind is nobody's."""

    def __init__(self) -> None:
        self.by_trace: dict[int, _Kept] = {}

    def on_end(self, span: ReadableSpan) -> None:
        kept = None if span.context is None else self.by_trace.get(span.context.trace_id)
        if kept is not None:
            kept.add(span)


class ProgramTracer:
    """The tracer provider of this process: programs that use `opentelemetry-api` get it too."""

    def __init__(self) -> None:
        self._keeper = _Keeper()
        self._ids = _Ids()
        provider = TracerProvider(
            # Nothing is recorded but under a sampled call.
            sampler=ParentBased(ALWAYS_OFF),
            resource=Resource.get_empty(),
            shutdown_on_exit=False,
            id_generator=self._ids,
            span_limits=_LIMITS,
        )
        provider.add_span_processor(self._keeper)
        trace.set_tracer_provider(provider)
        self._tracer = provider.get_tracer("poolshift")

    def record(self, program_id: str, traceparent: str, carried: Carried | None) -> "Recording":
        """One execution, under the span that `traceparent` names, with what is carried beside it."""
        span = _ProgramSpan(program_id, traceparent, carried, _new_span_id(), self._start)
        trace_id = span.get_span_context().trace_id
        kept = self._keeper.by_trace[trace_id] = _Kept()
        return Recording(span, kept, partial(self._forget, trace_id, kept))

    def _forget(self, trace_id: int, kept: _Kept) -> None:
        if self._keeper.by_trace.get(trace_id) is kept:  # else another call of the trace has begun meanwhile
            del self._keeper.by_trace[trace_id]

    def _start(self, span_id: int, above: Context, attributes: _Given, began: int) -> trace.Span:
        """OpenTelemetry's own span with this id."""
        self._ids.known.span_id = span_id
        return self._tracer.start_span(span_names.PROGRAM, above, attributes=attributes, start_time=began)


class _ProgramSpan(trace.Span):
    """The span `program`; OpenTelemetry's own for it is made at the first touch by the program, since few touch it.

    So is all that takes objects of OpenTelemetry's: a sampled call is rare, and code that is rarely run is slow.
    """

    def __init__(
        self,
        program_id: str,
        traceparent: str,
        carried: Carried | None,
        span_id: int,
        start: Callable[[int, Context, _Given, int], trace.Span],
    ) -> None:
        self._program_id = program_id
        self._traceparent = traceparent
        self._carried = carried
        self._span_id = span_id
        self._began = time.time_ns()
        self._start = start
        self._own: trace.Span | None = None
        self._is_over = False
        self._lock = threading.Lock()

    @cached_property
    def _above(self) -> Context:
        """The context of the caller's span."""
        return trace_context.context_of(self._traceparent, self._carried)

    @cached_property
    def _span_context(self) -> trace.SpanContext:
        parent = trace.get_current_span(self._above).get_span_context()
        return trace.SpanContext(
            parent.trace_id,
            self._span_id,
            is_remote=False,
            trace_flags=parent.trace_flags,
            trace_state=parent.trace_state,
        )

    def context(self) -> Context:
        """The context in which this is the current span."""
        return trace.set_span_in_context(self, Context() if self._carried is None else self._above)

    def get_span_context(self) -> trace.SpanContext:
        return self._span_context

    def is_recording(self) -> bool:
        return not self._is_over if self._own is None else self._own.is_recording()

    def set_attribute(self, key: str, value: Any) -> None:
        self._touched().set_attribute(key, value)

    def set_attributes(self, attributes: Any) -> None:
        self._touched().set_attributes(attributes)

    def add_event(self, name: str, attributes: Any = None, timestamp: int | None = None) -> None:
        self._touched().add_event(name, attributes, timestamp)

    def add_link(self, context: trace.SpanContext, attributes: Any = None) -> None:
        self._touched().add_link(context, attributes)

    def update_name(self, name: str) -> None:
        self._touched().update_name(name)

    def set_status(self, status: Any, description: str | None = None) -> None:
        self._touched().set_status(status, description)

    def record_exception(
        self,
        exception: BaseException,
        attributes: Any = None,
        timestamp: int | None = None,
        escaped: bool = False,  # noqa: FBT001, FBT002  # as OpenTelemetry has it
    ) -> None:
        self._touched().record_exception(exception, attributes, timestamp, escaped)

    def end(self, end_time: int | None = None) -> None:
        self._touched().end(end_time)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._touched().__exit__(kind, error, traceback)

    def __getattr__(self, name: str) -> Any:
        """An attribute that the SDK's spans have beyond the API's, such as `name` and `attributes`."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._touched(), name)

    def is_own(self, span: ReadableSpan) -> bool:
        """Says if `span` is OpenTelemetry's own for this one."""
        return bool(span.context == self._span_context)

    def has_trace_of(self, span: ReadableSpan) -> bool:
        """Says if both are of one trace: a thread that an earlier execution left behind may have ended others."""
        return span.context is not None and span.context.trace_id == self._span_context.trace_id

    def over(self, end: _Given) -> RecordedSpan | None:
        """The execution is over, with these attributes; None where OpenTelemetry's own span tells of it."""
        with self._lock:
            own = self._own
            if own is None:
                self._is_over = True
                return self._untouched(end)
        if end:
            own.set_attributes(end)
        if span_names.ERROR_TYPE in end:
            own.set_status(trace.StatusCode.ERROR)  # the message may tell of inputs: it is not for traces
        own.end()
        return None

    def _untouched(self, end: _Given) -> RecordedSpan:
        return RecordedSpan(
            name=span_names.PROGRAM,
            span_id=trace.format_span_id(self._span_id),
            parent_id=span_id_of(self._traceparent),
            began=self._began,
            ended=time.time_ns(),
            status=(trace.StatusCode.ERROR if span_names.ERROR_TYPE in end else trace.StatusCode.UNSET).value,
            attributes={**self._given(), **end},
        )

    def _touched(self) -> trace.Span:
        with self._lock:
            if self._own is None and self._is_over:
                self._own = trace.NonRecordingSpan(self._span_context)
            elif self._own is None:
                self._own = self._start(self._span_id, self._above, self._given(), self._began)
            return self._own

    def _given(self) -> _Given:
        return {span_names.PROGRAM_ID: self._program_id, span_names.PROCESS_PID: os.getpid()}


class Recording:
    """One sampled execution, which runs in its `context`."""

    def __init__(self, span: _ProgramSpan, kept: _Kept, forget: Callable[[], None]) -> None:
        self._span = span
        self._kept = kept
        self._forget = forget
        self.context = span.context()

    def end(self, reply: Reply) -> list[msgspec.Raw]:
        """The spans of the execution that `reply` answers, each as JSON."""
        recorded, self._kept.spans = self._kept.spans, []
        encoded: list[bytes] = []
        left_out = 0
        if recorded:
            encoded, left_out = _encode(_recorded(span) for span in recorded if self._span.has_trace_of(span))
        end: _Given = {}
        if left_out or self._kept.dropped:
            end[span_names.PROGRAM_DROPPED_SPANS] = left_out + self._kept.dropped
        if isinstance(reply, Failed):
            end[span_names.ERROR_TYPE] = reply.code
        untouched = self._span.over(end)
        if untouched is not None:
            root = [msgspec.json.encode(untouched)]
        else:
            root, _ = _encode(_recorded(span) for span in self._kept.spans if self._span.is_own(span))
        self._forget()
        return [msgspec.Raw(span) for span in root + encoded]


def _encode(spans: Iterable[RecordedSpan]) -> tuple[list[bytes], int]:
    """As many as there is room for, and how many are left out."""
    encoded: list[bytes] = []
    size = left_out = 0
    for span in spans:
        one = encode_span(span)
        if one is not None and size + len(one) <= MAX_BYTES:
            encoded.append(one)
            size += len(one)
        else:
            left_out += 1
    return encoded, left_out


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
