"""Spans on their way from a worker, which has no exporter, to the service, which has: the last member of a reply."""

from typing import Annotated

import msgspec

MAX_SPANS = 128
MAX_BYTES = 256 * 1024
"""The limits of what one execution records; spans beyond them are counted."""

_SpanId = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{16}$")]
_Time = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
_Integer = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_Scalar = str | bool | _Integer | float
Attributes = dict[str, _Scalar | list[_Scalar]]


class RecordedEvent(msgspec.Struct, omit_defaults=True):
    """Something that happened within a span; times are in nanoseconds since the epoch."""

    name: str
    at: _Time
    attributes: Attributes = {}


class RecordedSpan(msgspec.Struct, omit_defaults=True):
    """A span that has ended. Its trace is that of its call, whatever the worker says."""

    name: str
    span_id: _SpanId
    parent_id: _SpanId
    began: _Time
    ended: _Time
    kind: Annotated[int, msgspec.Meta(ge=0, le=4)] = 0
    """A value of `opentelemetry.trace.SpanKind`."""
    status: Annotated[int, msgspec.Meta(ge=0, le=2)] = 0
    """A value of `opentelemetry.trace.StatusCode`."""
    description: str | None = None
    attributes: Attributes = {}
    events: list[RecordedEvent] = []


_decoder: msgspec.json.Decoder[RecordedSpan] = msgspec.json.Decoder(RecordedSpan)
decode_span = _decoder.decode


def encode_span(span: RecordedSpan) -> bytes | None:
    """The JSON of a span; None if the service would not take it."""
    try:
        encoded = msgspec.json.encode(span)
        decode_span(encoded)
    except (TypeError, ValueError, msgspec.MsgspecError):
        return None
    return encoded
