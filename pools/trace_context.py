"""The W3C trace context of a call as `opentelemetry-api` knows it: a program, and what it calls, see their trace."""

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import context
from opentelemetry.context import Context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_propagator = TraceContextTextMapPropagator()


@contextmanager
def within(traceparent: str) -> Iterator[None]:
    """A scope in which the current span is the remote one that `traceparent` names."""
    token = context.attach(extract(traceparent))
    try:
        yield
    finally:
        context.detach(token)


def extract(traceparent: str) -> Context:
    """The context that a traceparent stands for."""
    return _propagator.extract({"traceparent": traceparent}, Context())


def trace_id_of(traceparent: str | None) -> str | None:
    """The trace's id, as logs have it."""
    return traceparent[3:35] if traceparent is not None else None
