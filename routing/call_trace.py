"""The spans of one sampled call, made by hand where its time goes (`routing.tracing` shows the tree)."""

import random
import time
from collections.abc import Sequence

import msgspec
import structlog
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.semconv.attributes import http_attributes
from opentelemetry.semconv.schemas import Schemas
from opentelemetry.trace import (
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
    format_span_id,
    format_trace_id,
)
from opentelemetry.util.types import AttributeValue

from pools import span_names
from pools.errors import ExecutionError
from pools.recorded_spans import decode_span
from routing.span_export import SpanExport
from routing.tracing import CANCELLED, Parent
from routing.versions import Decision

_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_UNSET, _ERROR = Status(StatusCode.UNSET), Status(StatusCode.ERROR)
_SCOPE = InstrumentationScope("poolshift", schema_url=Schemas.V1_44_0.value)
_KINDS = {kind.value: kind for kind in SpanKind}
_STATUS_CODES = {code.value: code for code in StatusCode}

_log = structlog.stdlib.get_logger("poolshift.tracing")


class CallTrace:
    """The trace of one sampled call. Each span goes to the export as it ends; a run may end after the answer has gone.

    It is the pools' `RunObserver`.
    """

    def __init__(self, export: SpanExport, trace_id: int, parent: Parent | None) -> None:
        self._export = export
        self._parent: SpanContext | None = None
        self._state: TraceState | None = None
        if parent is not None:
            self._state = TraceState.from_header([parent.tracestate]) if parent.tracestate is not None else None
            flags = TraceFlags(parent.flags)
            self._parent = SpanContext(trace_id, parent.span_id, is_remote=True, trace_flags=flags)
        self._context = self._new_context(trace_id)
        self._began = time.time_ns()
        self._queued_at = 0
        self._last_run_ended = 0
        self._run: tuple[SpanContext, int, int] | None = None
        self._is_cancelled = False
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

    def failed(self, code: str) -> None:
        """The call failed in its pool, or was cancelled there; maybe before it ran."""
        self._is_cancelled = code == CANCELLED
        if self._queued_at and self._run is None:
            self._end_queue(time.time_ns(), code)

    # --- what the pool tells

    def run_begins(self, worker_pid: int) -> str:
        # Run again by the pool, since its worker died, the call has waited from then on.
        self._queued_at = self._queued_at or self._last_run_ended
        context = self._new_context(self._context.trace_id)
        self._run = context, time.time_ns(), worker_pid
        return f"00-{self.trace_id}-{format_span_id(context.span_id)}-01"

    def run_ended(self, error: Exception | None, spans: Sequence[msgspec.Raw]) -> None:
        if self._run is None:
            return
        (context, began, pid), self._run = self._run, None
        self._end_queue(began, None)
        for span in spans:
            self._emit_recorded(span)
        now = time.time_ns()
        attributes = {
            span_names.POOL_VERSION: self._attributes[span_names.POOL_VERSION],
            span_names.PROCESS_PID: pid,
        }
        self._emit(span_names.RUN, began, now, attributes, CANCELLED if self._is_cancelled else _code(error), context)
        self._last_run_ended = now

    # --- what the endpoint tells

    def answered(self, name: str, status: int, error: str | None, attributes: dict[str, AttributeValue]) -> None:
        """The call has its answer; `error` is the code of what went wrong, where that was not the client's doing."""
        attributes[http_attributes.HTTP_RESPONSE_STATUS_CODE] = status
        self._end(name, error, attributes)

    def abandoned(self, name: str, attributes: dict[str, AttributeValue]) -> None:
        """The client went away before."""
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

    def _emit_recorded(self, encoded: msgspec.Raw) -> None:
        """A span of the worker's: in this trace, whatever the worker says."""
        try:
            span = decode_span(encoded)
        except msgspec.MsgspecError as error:
            _log.warning("a worker's span makes no sense", reason=str(error), trace_id=self.trace_id)
            return
        trace_id = self._context.trace_id
        self._export.offer(
            ReadableSpan(
                span.name,
                self._span_context(trace_id, int(span.span_id, 16)),
                self._span_context(trace_id, int(span.parent_id, 16)),
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
        return self._span_context(trace_id, random.getrandbits(64) or 1)

    def _span_context(self, trace_id: int, span_id: int) -> SpanContext:
        return SpanContext(trace_id, span_id, is_remote=False, trace_flags=_SAMPLED, trace_state=self._state)


def _code(error: Exception | None) -> str | None:
    if error is None:
        return None
    return error.code if isinstance(error, ExecutionError) else type(error).__name__.lower()
