"""The W3C trace context of a call as `opentelemetry-api` knows it: a program, and what it calls, see their trace."""

import logging
from contextvars import Token
from types import TracebackType

from opentelemetry import context, trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from poolshift.worker.tracing.traceparent import Carried, span_id_of

_propagator = CompositePropagator([TraceContextTextMapPropagator(), W3CBaggagePropagator()])
# W3C has malformed parts left out. They are not worth a warning: a client could fill the log with it.
for _name in ("opentelemetry.trace.span", "opentelemetry.baggage.propagation"):
    logging.getLogger(_name).setLevel(logging.ERROR)


class Attached:
    """A scope in which a context is the current one: a class, since a generator takes twice as many calls."""

    def __init__(self, current: Context) -> None:
        self._current = current
        self._token: Token[Context] | None = None

    def __enter__(self) -> None:
        self._token = context.attach(self._current)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._token is not None
        context.detach(self._token)


def context_of(traceparent: str | None, carried: Carried | None) -> Context:
    """A context whose span is the remote one that `traceparent` names, with what is carried beside it.

    `traceparent` is well-formed, since the service has seen to it.
    """
    if carried is None:  # the propagators take several times as long to find that nothing is carried
        return Context() if traceparent is None else trace.set_span_in_context(_caller(traceparent), Context())
    headers = {"traceparent": traceparent, "tracestate": carried.tracestate, "baggage": carried.baggage}
    there = {name: value for name, value in headers.items() if value is not None}
    return _propagator.extract(there, Context())


def _caller(traceparent: str) -> trace.Span:
    trace_id, span_id, flags = int(traceparent[3:35], 16), int(span_id_of(traceparent), 16), int(traceparent[53:55], 16)
    return trace.NonRecordingSpan(
        trace.SpanContext(trace_id, span_id, is_remote=True, trace_flags=trace.TraceFlags(flags))
    )
