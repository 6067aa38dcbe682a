"""Traces, with spans made by hand where a call's time goes.

    POST /programs/{program_id}/execute
    ├── route      the version is decided; again where the rollout changes while the call waits
    ├── queue      from there until a worker has it
    └── run        in the pool: one worker, from the request on its socket to the reply
        └── program    in the worker's process, and under it whatever the program records

Whether a call is sampled is decided at its head, from a flag and a number, before anything is made for it.
"""

import random
import re
import time
from dataclasses import dataclass
from typing import NamedTuple

import msgspec
import structlog
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.semconv.attributes import http_attributes
from opentelemetry.semconv.schemas import Schemas
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags, format_span_id, format_trace_id
from opentelemetry.util.types import AttributeValue

from pools import span_names
from pools.errors import ExecutionError
from pools.recorded_spans import RecordedSpan, decode_spans
from routing.span_export import SpanExport
from routing.versions import Decision

_TRACEPARENT = re.compile(rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_LOW_64_BITS = 2**64 - 1
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_UNSET, _ERROR = Status(StatusCode.UNSET), Status(StatusCode.ERROR)
_SCOPE = InstrumentationScope("poolshift", schema_url=Schemas.V1_44_0.value)
_KINDS = {kind.value: kind for kind in SpanKind}
_STATUS_CODES = {code.value: code for code in StatusCode}
CANCELLED = "cancelled"

_log = structlog.stdlib.get_logger("poolshift.tracing")


@dataclass(frozen=True, slots=True)
class Sampling:
    """`ratio` of the traces that begin here; of those that come in, what their flag says where that is honoured."""

    ratio: float
    honours_parent: bool

    @classmethod
    def named(cls, sampler: str, ratio: float) -> "Sampling":
        """As OTEL_TRACES_SAMPLER and OTEL_TRACES_SAMPLER_ARG say."""
        root = sampler.removeprefix("parentbased_")
        return cls({"always_on": 1.0, "always_off": 0.0}.get(root, ratio), honours_parent=root != sampler)


class Head(NamedTuple):
    """What is decided at the head of a call: its trace where it is sampled, else the traceparent to hand on."""

    trace: "CallTrace | None"
    traceparent: str | None


_NOTHING = Head(None, None)


class Tracing:
    """Begins the traces of calls. Without an export it only sees that a traceparent is one."""

    def __init__(self, sampling: Sampling, export: SpanExport | None) -> None:
        self._export = export
        self._honours_parent = sampling.honours_parent
        # As OpenTelemetry's TraceIdRatioBased has it, so that all services agree on a trace.
        self._bound = round(sampling.ratio * 2**64)

    def begin(self, traceparent: bytes | None) -> Head:
        """Decides on a call that came in with `traceparent`; one that is malformed counts as none."""
        if traceparent is not None:
            found = _TRACEPARENT.fullmatch(traceparent)
            if found is not None and (found[1] != b"00" or found[5] is None):
                return self._continue(traceparent, found)
        if self._export is None:
            return _NOTHING
        trace_id = random.getrandbits(128) or 1
        if trace_id & _LOW_64_BITS >= self._bound:
            return _NOTHING
        return Head(CallTrace(self._export, trace_id, None), None)

    def _continue(self, traceparent: bytes, found: re.Match[bytes]) -> Head:
        if self._export is None:
            return Head(None, traceparent.decode())
        trace_id, parent_id, flags = int(found[2], 16), int(found[3], 16), int(found[4], 16)
        is_within_ratio = trace_id & _LOW_64_BITS < self._bound
        if flags & TraceFlags.SAMPLED if self._honours_parent else is_within_ratio:
            parent = SpanContext(trace_id, parent_id, is_remote=True, trace_flags=TraceFlags(flags))
            return Head(CallTrace(self._export, trace_id, parent), None)
        return Head(None, f"00-{found[2].decode()}-{found[3].decode()}-00")


class CallTrace:
    """The trace of one sampled call. Each span goes to the export as it ends; a run may end after the answer has gone.

    It is the pools' `RunObserver`.
    """

    def __init__(self, export: SpanExport, trace_id: int, parent: SpanContext | None) -> None:
        self._export = export
        self._parent = parent
        self._context = self._new_context(trace_id)
        self._began = time.time_ns()
        self._queued_at = 0
        self._last_run_ended = 0
        self._run: tuple[SpanContext, int, int] | None = None
        self._is_abandoned = False
        self._attributes: dict[str, AttributeValue] = {}
        self.trace_id = format_trace_id(trace_id)

    # --- what the router tells

    def routed(self, decision: Decision, revision: int, began: int) -> None:
        """A version was decided on, by a rollout of `revision`; the decision began at `began`."""
        if self._queued_at:
            self._end_queue(time.time_ns(), None)
        version: dict[str, AttributeValue] = {
            span_names.POOL_VERSION: decision.version.value,
            span_names.ROLLOUT_REVISION: revision,
        }
        self._attributes |= version
        self._emit(
            span_names.ROUTE, began, time.time_ns(), version | {span_names.ROUTING_REASON: decision.reason.value}
        )

    def queue_begins(self) -> None:
        """The call is in its pool."""
        self._queued_at = time.time_ns()

    # --- what the pool tells

    def run_begins(self, worker_pid: int) -> str:
        # Run again by the pool, since its worker died, the call has waited from then on.
        self._queued_at = self._queued_at or self._last_run_ended
        context = self._new_context(self._context.trace_id)
        self._run = context, time.time_ns(), worker_pid
        return f"00-{self.trace_id}-{format_span_id(context.span_id)}-01"

    def run_ended(self, error: Exception | None, spans: msgspec.Raw | None) -> None:
        if self._run is None:
            return
        (context, began, pid), self._run = self._run, None
        self._end_queue(began, None)
        for span in self._decoded(spans):
            self._emit_recorded(span)
        now = time.time_ns()
        attributes = {
            span_names.POOL_VERSION: self._attributes[span_names.POOL_VERSION],
            span_names.PROCESS_PID: pid,
        }
        self._emit(span_names.RUN, began, now, attributes, CANCELLED if self._is_abandoned else _code(error), context)
        self._last_run_ended = now

    # --- what the endpoint tells

    def answered(self, name: str, status: int, error: str | None, attributes: dict[str, AttributeValue]) -> None:
        """The call has its answer; `error` is its code where it is one."""
        if error is not None and self._queued_at and self._run is None:
            self._end_queue(time.time_ns(), error)
        attributes[http_attributes.HTTP_RESPONSE_STATUS_CODE] = status
        self._end(name, error if status >= 500 else None, attributes)  # a 4xx is no error of a server's span

    def abandoned(self, name: str, attributes: dict[str, AttributeValue]) -> None:
        """The client went away before."""
        self._is_abandoned = True
        if self._queued_at and self._run is None:
            self._end_queue(time.time_ns(), CANCELLED)
        self._end(name, CANCELLED, attributes)

    # --- spans

    def _end(self, name: str, error: str | None, attributes: dict[str, AttributeValue]) -> None:
        attributes |= self._attributes
        self._emit(name, self._began, time.time_ns(), attributes, error, self._context, SpanKind.SERVER)

    def _end_queue(self, at: int, error: str | None) -> None:
        version = {span_names.POOL_VERSION: self._attributes[span_names.POOL_VERSION]}
        began, self._queued_at = self._queued_at, 0
        self._emit(span_names.QUEUE, began, at, version, error)

    def _emit(
        self,
        name: str,
        began: int,
        ended: int,
        attributes: dict[str, AttributeValue],
        error: str | None = None,
        context: SpanContext | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
    ) -> None:
        if error is not None:
            attributes[span_names.ERROR_TYPE] = error
        self._export.offer(
            ReadableSpan(
                name,
                context or self._new_context(self._context.trace_id),
                self._parent if context is self._context else self._context,
                self._export.resource,
                attributes,
                kind=kind,
                status=_UNSET if error is None else _ERROR,
                start_time=began,
                end_time=max(began, ended),
                instrumentation_scope=_SCOPE,
            )
        )

    def _decoded(self, spans: msgspec.Raw | None) -> list[RecordedSpan]:
        if spans is None:
            return []
        try:
            return decode_spans(spans)
        except msgspec.MsgspecError as error:
            _log.warning("a worker's spans make no sense", reason=str(error), trace_id=self.trace_id)
            return []

    def _emit_recorded(self, span: RecordedSpan) -> None:
        """A span of the worker's: in this trace, whatever the worker says."""
        trace_id = self._context.trace_id
        self._export.offer(
            ReadableSpan(
                span.name,
                SpanContext(trace_id, int(span.span_id, 16), is_remote=False, trace_flags=_SAMPLED),
                SpanContext(trace_id, int(span.parent_id, 16), is_remote=False, trace_flags=_SAMPLED),
                self._export.resource,
                span.attributes,
                [Event(event.name, event.attributes, event.at) for event in span.events],
                kind=_KINDS[span.kind],
                status=Status(_STATUS_CODES[span.status], span.description),
                start_time=span.began,
                end_time=span.ended,
                instrumentation_scope=_SCOPE,
            )
        )

    def _new_context(self, trace_id: int) -> SpanContext:
        return SpanContext(trace_id, random.getrandbits(64) or 1, is_remote=False, trace_flags=_SAMPLED)


def _code(error: Exception | None) -> str | None:
    if error is None:
        return None
    return error.code if isinstance(error, ExecutionError) else type(error).__name__.lower()
