"""Messages between the service and the process that exports its spans. Each message is a frame of JSON.

The service's end is `routing.telemetry.span_export`, the other `routing.telemetry.span_exporter`. Times are in
nanoseconds since the epoch, ids in hexadecimal, as everywhere outside OpenTelemetry's SDK.
"""

from typing import Literal

import msgspec

SpanOutcome = Literal["exported", "failed", "dropped"]
"""The end of a span: `failed` if the collector did not take it, `dropped` if too many waited already."""


FLUSH_TIMEOUT_S = 2.0
"""Limit of the exporter's last export, in seconds, once no span follows."""


class Export(msgspec.Struct, tag="export"):
    """The first message: how to export. The environment has the collector's URL, headers, TLS and timeout."""

    endpoint: str | None
    """The collector; None is the collector of OpenTelemetry's variables."""
    resource: dict[str, str]
    max_queue_size: int
    max_batch_size: int
    interval_ms: float


class CallSpan(msgspec.Struct, tag="call", array_like=True):
    """A span that the service made."""

    trace_id: str
    span_id: str
    parent_id: str | None
    name: str
    began: int
    ended: int
    attributes: dict[str, str | int]
    tracestate: str | None = None
    is_error: bool = False
    is_server: bool = False
    """True for the server's span, whose parent is the caller's, if there is one."""
    link: tuple[str, str] | None = None
    """The trace and the span of the call that this one is a shadow of."""


class WorkerSpan(msgspec.Struct, tag="worker", array_like=True):
    """A span as a worker sent it: a `poolshift.worker.tracing.recorded_spans.RecordedSpan`, or nonsense."""

    trace_id: str
    recorded: msgspec.Raw
    tracestate: str | None = None


class TraceState(msgspec.Struct, array_like=True):
    """All that another process needs to go on with a trace; `began` is in nanoseconds since the epoch."""

    trace_id: str
    span_id: str
    began: int
    attributes: dict[str, str | int]
    parent_id: str | None
    tracestate: str | None


Span = CallSpan | WorkerSpan
MAX_SPANS_AT_ONCE = 128
"""Limit of one message: a worker's spans may be big (`poolshift.worker.tracing.recorded_spans.MAX_BYTES`)."""


class Spans(msgspec.Struct, tag="spans"):
    """Ended spans, up to `MAX_SPANS_AT_ONCE`."""

    spans: list[Span]


class EncodedSpans(msgspec.Struct, tag="spans"):
    """The same message, where another process of the service has encoded some of the spans already."""

    spans: list[Span | msgspec.Raw]


class Last(msgspec.Struct, tag="last"):
    """The last message: the exporter exports its queue now."""


ToExporter = Export | Spans | Last


class Outcome(msgspec.Struct, tag="outcome"):
    """The end of `count` spans."""

    outcome: SpanOutcome
    count: int


class Line(msgspec.Struct, tag="line"):
    """A line for the service's log."""

    logger: str
    level: int
    """Any number; libraries define their own levels."""
    text: str


FromExporter = Outcome | Line
