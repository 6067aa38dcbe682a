"""The spans of one sampled call (`routing.telemetry.tracing` shows the tree)."""

import random
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec
import structlog
from opentelemetry.semconv.attributes import http_attributes

from pools.errors import ExecutionError
from poolshift.worker.tracing import span_names
from poolshift.worker.tracing.recorded_spans import MAX_BYTES
from routing.telemetry.spans import CallSpan, Span, TraceState, WorkerSpan
from routing.versions import Decision

CANCELLED = "cancelled"
"""The error of a call that nobody waits for any more."""

_log = structlog.stdlib.get_logger("poolshift.tracing")


class Parent(NamedTuple):
    """The caller's span."""

    span_id: str
    tracestate: str | None


class SpanSink(Protocol):
    """Takes finished spans: the export, or the way to it from another process."""

    def offer(self, span: Span | msgspec.Raw) -> None:
        """Takes a span that has ended, or one that another process of the service has encoded. Never blocks."""

    def lost(self, count: int) -> None:
        """Counts spans that cannot be exported."""


class CallTrace:
    """The trace of one sampled call. Each span goes to the export as it ends; a run may end after the answer has gone.

    It is the pools' `RunObserver`. Ids are hexadecimal, as W3C's trace context has them.
    """

    def __init__(
        self, export: SpanSink, trace_id: str, parent: Parent | None, link: tuple[str, str] | None = None
    ) -> None:
        """Takes as `link` the trace and the span that caused this trace, which is a shadow call's."""
        self.trace_id = trace_id
        self._link = link
        self._export = export
        self._parent_id = None if parent is None else parent.span_id
        self._tracestate = None if parent is None else parent.tracestate
        self._span_id = _new_span_id()
        self._began = time.time_ns()
        self._queued_at = 0
        self._run: tuple[str, int, int] | None = None
        self._is_cancelled = False
        self._attributes: dict[str, str | int] = {}

    @classmethod
    def resumed(cls, export: SpanSink, state: TraceState) -> "CallTrace":
        """Goes on with the trace of a call that came to another process, which has handed it over."""
        trace = cls(export, state.trace_id, None)
        trace._span_id, trace._began, trace._attributes = state.span_id, state.began, dict(state.attributes)
        trace._parent_id, trace._tracestate = state.parent_id, state.tracestate
        return trace

    def hand_over(self) -> TraceState:
        """Ends the wait, if the call has not run, and leaves the rest to another process."""
        if self._queued_at and self._run is None:
            self._end_queue(time.time_ns(), None)
        return TraceState(
            self.trace_id, self._span_id, self._began, self._attributes, self._parent_id, self._tracestate
        )

    def linked(self, version: str) -> "CallTrace":
        """Begins the trace of a shadow call on `version`, which is linked to this call's trace."""
        trace_id = f"{random.getrandbits(128) or 1:032x}"
        trace = CallTrace(self._export, trace_id, None, (self.trace_id, self._span_id))
        trace._attributes[span_names.POOL_VERSION] = version
        return trace

    def shadow_ended(self, error: str | None, program_id: str) -> None:
        """Ends the trace of a shadow call."""
        self._end(span_names.SHADOW, error, {span_names.PROGRAM_ID: program_id})

    # --- what the router tells

    def routed(self, decision: Decision, revision: int, began: int) -> None:
        """Ends the span of a decision, which a rollout of `revision` made and which began at `began`."""
        if self._queued_at:
            self._end_queue(time.time_ns(), None)
        version: dict[str, str | int] = {
            span_names.POOL_VERSION: decision.version.value,
            span_names.ROLLOUT_REVISION: revision,
        }
        self._attributes |= version
        self._emit(
            span_names.ROUTE, began, time.time_ns(), version | {span_names.ROUTING_REASON: decision.reason.value}
        )

    def queue_begins(self) -> None:
        """Begins the wait in a pool."""
        self._queued_at = time.time_ns()

    def failed(self, code: str) -> None:
        """Ends the wait of a call that failed or was cancelled in its pool, if the call had not run."""
        self._is_cancelled = code == CANCELLED
        if self._queued_at and self._run is None:
            self._end_queue(time.time_ns(), code)

    # --- what the pool tells

    def run_begins(self, worker_pid: int) -> str:
        span_id = _new_span_id()
        self._run = span_id, time.time_ns(), worker_pid
        return f"00-{self.trace_id}-{span_id}-01"

    def run_ended(self, error: Exception | None, spans: Sequence[msgspec.Raw]) -> None:
        if self._run is None:
            return
        (span_id, began, pid), self._run = self._run, None
        if self._queued_at:
            self._end_queue(began, None)
        for span in spans:
            self._emit_recorded(span)
        now = time.time_ns()
        attributes: dict[str, str | int] = {
            span_names.POOL_VERSION: self._attributes[span_names.POOL_VERSION],
            span_names.PROCESS_PID: pid,
        }
        self._emit(span_names.RUN, began, now, attributes, CANCELLED if self._is_cancelled else _code(error), span_id)

    # --- what the endpoint tells

    def answered(self, name: str, status: int, error: str | None, attributes: dict[str, str | int]) -> None:
        """Ends the trace of a call that is answered; `error` is the code of an error that the client did not cause."""
        attributes[http_attributes.HTTP_RESPONSE_STATUS_CODE] = status
        self._end(name, error, attributes)

    def abandoned(self, name: str, attributes: dict[str, str | int]) -> None:
        """Ends the trace of a call whose client went away."""
        self._end(name, CANCELLED, attributes)

    # --- spans

    def _end(self, name: str, error: str | None, attributes: Mapping[str, str | int]) -> None:
        self._emit(name, self._began, time.time_ns(), {**attributes, **self._attributes}, error, self._span_id)

    def _end_queue(self, at: int, error: str | None) -> None:
        version = {span_names.POOL_VERSION: self._attributes[span_names.POOL_VERSION]}
        began, self._queued_at = self._queued_at, 0
        self._emit(span_names.QUEUE, began, at, version, error)

    def _emit(
        self,
        name: str,
        began: int,
        ended: int,
        attributes: dict[str, str | int],
        error: str | None = None,
        span_id: str | None = None,
    ) -> None:
        if error is not None:
            attributes[span_names.ERROR_TYPE] = error
        is_root = span_id is self._span_id
        self._export.offer(
            CallSpan(
                trace_id=self.trace_id,
                span_id=span_id or _new_span_id(),
                parent_id=self._parent_id if is_root else self._span_id,
                name=name,
                began=began,
                ended=max(began, ended),
                attributes=attributes,
                tracestate=self._tracestate,
                is_error=error is not None,
                is_server=is_root and self._link is None,
                link=self._link if is_root else None,
            )
        )

    def _emit_recorded(self, recorded: msgspec.Raw) -> None:
        """Exports a span of the worker's as it came."""
        if memoryview(recorded).nbytes > MAX_BYTES:
            _log.warning("a worker's span is too big", trace_id=self.trace_id)
            self._export.lost(1)
            return
        self._export.offer(WorkerSpan(self.trace_id, recorded, self._tracestate))


def _new_span_id() -> str:
    return f"{random.getrandbits(64) or 1:016x}"


def _code(error: Exception | None) -> str | None:
    if error is None:
        return None
    return error.code if isinstance(error, ExecutionError) else type(error).__name__.lower()
