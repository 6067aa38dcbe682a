"""Exports spans to an OTLP collector, in a separate process: the time that OpenTelemetry takes delays no call.

It ends when it is told that no span follows, or when the service is gone, in either case after it has exported what it
has; it takes at most `routing.telemetry.spans.FLUSH_TIMEOUT_S` for that.

    python -P -m routing.telemetry.span_exporter FD

FD is its end of a stream socket. `routing.telemetry.spans` has the messages, `routing.telemetry.span_export` the
service's side.
"""

import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import msgspec
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.semconv.schemas import Schemas
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from poolshift.worker.framing import MALFORMED, frame, read_frames
from poolshift.worker.tracing.recorded_spans import decode_span
from routing.telemetry.spans import (
    FLUSH_TIMEOUT_S,
    CallSpan,
    Export,
    FromExporter,
    Last,
    Line,
    Outcome,
    Span,
    SpanOutcome,
    Spans,
    ToExporter,
    WorkerSpan,
)

_Item = TypeVar("_Item")
_NICENESS = 10
"""Niceness: calls come first."""
_RUN_S = 50e-6
"""Time without a yield, in seconds: some four spans. At the peak a call waits longer than that for its turn anyway."""
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_SCOPE = InstrumentationScope("poolshift", schema_url=Schemas.V1_44_0.value)
_KINDS = {kind.value: kind for kind in SpanKind}
_STATUS_CODES = {code.value: code for code in StatusCode}

_decoder: msgspec.json.Decoder[ToExporter] = msgspec.json.Decoder(ToExporter)
_log = logging.getLogger("poolshift.tracing")


class _Service:
    """The other end of the socket. The processor's thread sends to it as well."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._lock = threading.Lock()

    def tell(self, message: FromExporter) -> None:
        """Sends a message; does nothing if the service is gone."""
        data = frame(msgspec.json.encode(message))
        try:
            with self._lock:
                self._socket.sendall(data)
        except OSError:
            pass

    def count(self, outcome: SpanOutcome, count: int) -> None:
        """Reports the end of `count` spans."""
        self.tell(Outcome(outcome, count))


class _LinesToService(logging.Handler):
    """Sends log records to the service, which logs them in its own format."""

    def __init__(self, service: _Service) -> None:
        super().__init__()
        self._service = service

    def emit(self, record: logging.LogRecord) -> None:
        self._service.tell(Line(record.name, record.levelno, self.format(record)))


def _in_short_runs(spans: Iterable[_Item]) -> Iterator[_Item]:
    """Yields the core to any process that waits for it, after each `_RUN_S`.

    Where Linux preempts lazily, as it does by default from 6.12 on, niceness alone does not: a process that makes no
    system call keeps its core until the next tick, for 1 to 10 ms, and encoding a batch takes as long. To yield after
    every span would take a quarter of this process's time: each time another process runs.
    """
    began = time.perf_counter()
    for span in spans:
        if time.perf_counter() - began > _RUN_S:
            os.sched_yield()
            began = time.perf_counter()
        yield span


class _Batch(list[ReadableSpan]):
    """A batch that OpenTelemetry encodes in one go."""

    def __iter__(self) -> Iterator[ReadableSpan]:
        return _in_short_runs(super().__iter__())


class _HashedResource(Resource):
    """A resource with a constant hash: OpenTelemetry encodes all attributes for one, and asks for it at each span."""

    def __init__(self, resource: Resource) -> None:
        super().__init__(resource.attributes, resource.schema_url)
        self._hash = super().__hash__()

    def __hash__(self) -> int:
        return self._hash


class _CountingExporter(SpanExporter):
    """Counts the spans that the exporter underneath took or lost. The processor's thread runs this."""

    def __init__(self, exporter: SpanExporter, service: _Service) -> None:
        self._exporter = exporter
        self._service = service

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = SpanExportResult.FAILURE
        try:
            result = self._exporter.export(_Batch(spans))
        finally:
            self._service.count("exported" if result is SpanExportResult.SUCCESS else "failed", len(spans))
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()


class _Export:
    """Makes and queues OpenTelemetry's spans. The queue never overflows: the service counts the spans on their way."""

    def __init__(self, how: Export, service: _Service) -> None:
        self._service = service
        # The environment has the last word.
        resource = Resource.create().merge(Resource(how.resource)).merge(OTELResourceDetector().detect())
        self._resource = _HashedResource(resource)
        self._processor = BatchSpanProcessor(
            _CountingExporter(OTLPSpanExporter(endpoint=how.endpoint), service),
            max_queue_size=how.max_queue_size,
            max_export_batch_size=how.max_batch_size,
            schedule_delay_millis=how.interval_ms,
        )

    def take(self, span: Span) -> None:
        """Queues a span."""
        if isinstance(span, CallSpan):
            self._processor.on_end(self._of_call(span))
            return
        try:
            self._processor.on_end(self._of_worker(span))
        except MALFORMED as error:
            _log.warning("a worker's span makes no sense: %s (trace %s)", error, span.trace_id)
            self._service.count("failed", 1)

    def flush(self) -> None:
        """Exports the queue."""
        self._processor.shutdown()  # type: ignore[no-untyped-call]

    def _of_call(self, span: CallSpan) -> ReadableSpan:
        state = _state(span.tracestate)
        parent = None
        if span.parent_id is not None:
            parent = _context(span.trace_id, span.parent_id, state, is_remote=span.is_server)
        return ReadableSpan(
            span.name,
            _context(span.trace_id, span.span_id, state),
            parent,
            self._resource,
            span.attributes,
            links=[Link(_context(*span.link, None))] if span.link is not None else (),
            kind=SpanKind.SERVER if span.is_server else SpanKind.INTERNAL,
            status=Status(StatusCode.ERROR if span.is_error else StatusCode.UNSET),
            start_time=span.began,
            end_time=span.ended,
            instrumentation_scope=_SCOPE,
        )

    def _of_worker(self, message: WorkerSpan) -> ReadableSpan:
        """Puts a worker's span into the trace of its call, whatever the worker says."""
        span = decode_span(message.recorded)
        state = _state(message.tracestate)
        return ReadableSpan(
            span.name,
            _context(message.trace_id, span.span_id, state),
            _context(message.trace_id, span.parent_id, state),
            self._resource,
            span.attributes,
            [Event(event.name, event.attributes, event.at) for event in span.events],
            kind=_KINDS[span.kind],
            status=Status(_STATUS_CODES[span.status], span.description),
            start_time=span.began,
            end_time=span.ended,
            instrumentation_scope=_SCOPE,
        )


def _context(trace_id: str, span_id: str, state: TraceState | None, *, is_remote: bool = False) -> SpanContext:
    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote, trace_flags=_SAMPLED, trace_state=state)


def _state(tracestate: str | None) -> TraceState | None:
    return None if tracestate is None else TraceState.from_header([tracestate])


def main() -> None:
    """Exports until the last span."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # the service says when to end; others may signal all of its processes
    os.nice(_NICENESS)
    sock = socket.socket(fileno=int(sys.argv[1]))
    service = _Service(sock)
    logging.basicConfig(handlers=[_LinesToService(service)], level=logging.INFO, format="%(message)s")
    messages = map(_decoder.decode, read_frames(sock))
    how = next(messages, None)
    if not isinstance(how, Export):
        return  # the service is gone already
    export = _Export(how, service)
    for message in messages:
        if isinstance(message, Spans):
            for span in _in_short_runs(message.spans):
                export.take(span)
        elif isinstance(message, Last):
            break
    # A collector that hangs keeps nobody.
    end = threading.Timer(FLUSH_TIMEOUT_S, os._exit, [1])
    end.daemon = True
    end.start()
    export.flush()


if __name__ == "__main__":
    main()
