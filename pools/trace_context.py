"""The W3C trace context of a call as `opentelemetry-api` knows it: a program, and what it calls, see their trace."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
from opentelemetry import context
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_propagator = CompositePropagator([TraceContextTextMapPropagator(), W3CBaggagePropagator()])
# What is malformed in them is left out, as W3C has it, and is no warning of ours: a client could fill the log with it.
for _name in ("opentelemetry.trace.span", "opentelemetry.baggage.propagation"):
    logging.getLogger(_name).setLevel(logging.ERROR)


class Carried(msgspec.Struct, frozen=True, omit_defaults=True):
    """What travels beside a traceparent, as it came in."""

    tracestate: str | None = None
    baggage: str | None = None


@contextmanager
def within(traceparent: str | None, carried: Carried | None) -> Iterator[None]:
    """A scope in which the current span is the remote one that `traceparent` names, with what is carried beside it."""
    headers = {"traceparent": traceparent}
    if carried is not None:
        headers |= {"tracestate": carried.tracestate, "baggage": carried.baggage}
    there = {name: value for name, value in headers.items() if value is not None}
    token = context.attach(_propagator.extract(there, Context()))
    try:
        yield
    finally:
        context.detach(token)


def trace_id_of(traceparent: str | None) -> str | None:
    """The trace's id, as logs have it."""
    return traceparent[3:35] if traceparent is not None else None
