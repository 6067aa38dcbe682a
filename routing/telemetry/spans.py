"""What passes between the service and the process that exports its spans, both ways. Each message is a frame of JSON.

The service's end is `routing.telemetry.span_export`, the other `routing.telemetry.span_exporter`. Times are in
nanoseconds since the epoch, ids in hexadecimal, as everywhere outside OpenTelemetry's SDK.
"""

from typing import Literal

import msgspec

SpanOutcome = Literal["exported", "failed", "dropped"]
"""What becomes of a span: `failed` where the collector did not take it, `dropped` where too many waited already."""


FLUSH_TIMEOUT_S = 2.0
"""The exporter takes at most so long for what it still has, once nothing follows."""


class Export(msgspec.Struct, tag="export"):
    """The first message: how to export. Where, with which headers, TLS and timeout, is in the environment."""

    endpoint: str | None
    """None is what OpenTelemetry's variables say."""
    resource: dict[str, str]
    max_queue_size: int
    max_batch_size: int
    interval_ms: float


class CallSpan(msgspec.Struct, tag="call", array_like=True):
    """A span of the service's own."""

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
    """It is the server's, and its parent, if any, the caller's."""


class WorkerSpan(msgspec.Struct, tag="worker", array_like=True):
    """What a worker has recorded, as it came: a `poolshift.worker.tracing.recorded_spans.RecordedSpan`, or nonsense."""

    trace_id: str
    recorded: msgspec.Raw
    tracestate: str | None = None


Span = CallSpan | WorkerSpan
MAX_SPANS_AT_ONCE = 128
"""In a message, which is a frame: worker's spans may be big (`poolshift.worker.tracing.recorded_spans.MAX_BYTES`)."""


class Spans(msgspec.Struct, tag="spans"):
    """Some that have ended, up to `MAX_SPANS_AT_ONCE`."""

    spans: list[Span]


class Last(msgspec.Struct, tag="last"):
    """Nothing follows: what waits is to be exported now."""


ToExporter = Export | Spans | Last


class Outcome(msgspec.Struct, tag="outcome"):
    """What became of `count` spans."""

    outcome: SpanOutcome
    count: int


class Line(msgspec.Struct, tag="line"):
    """A line for the service's log."""

    logger: str
    level: int
    """Any; libraries have levels of their own."""
    text: str


FromExporter = Outcome | Line
