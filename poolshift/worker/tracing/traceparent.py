"""The W3C trace context of a call as bytes on the wire have it, read without OpenTelemetry."""

import msgspec


class Carried(msgspec.Struct, frozen=True, omit_defaults=True):
    """The headers that travel beside a traceparent, as they came in."""

    tracestate: str | None = None
    baggage: str | None = None


def span_id_of(traceparent: str) -> str:
    """The id of the span that it names."""
    return traceparent[36:52]


def trace_id_of(traceparent: str | None) -> str | None:
    """The trace's id, as logs have it."""
    return traceparent[3:35] if traceparent is not None else None
