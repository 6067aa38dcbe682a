"""Spans of a front's calls, on their way to the service."""

import asyncio
from typing import Final

import msgspec

from app.fronts.frames import SPANS, FrameStream
from routing.telemetry.spans import MAX_SPANS_AT_ONCE, Span

HAND_OVER_S: Final = 0.2
"""The longest time for which a span waits for others."""

_encode: Final = msgspec.json.Encoder().encode


class SpansToService:
    """Hands spans of a front's calls to the service, which exports them (`routing.telemetry.call_trace.SpanSink`)."""

    def __init__(self, stream: FrameStream) -> None:
        self._stream = stream
        self._waiting: list[Span | msgspec.Raw] = []
        self._lost = 0
        self._timer: asyncio.TimerHandle | None = None

    def offer(self, span: Span | msgspec.Raw) -> None:
        """Takes a span that has ended."""
        if self._timer is None:
            self._timer = self._stream.loop.call_later(HAND_OVER_S, self.tell)
        self._waiting.append(span)
        if len(self._waiting) >= MAX_SPANS_AT_ONCE:
            self.tell()

    def lost(self, count: int) -> None:
        """Counts spans that cannot be exported."""
        self._lost += count

    def tell(self) -> None:
        """Hands all spans to the service."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._waiting or self._lost:
            spans, lost, self._waiting, self._lost = self._waiting, self._lost, [], 0
            self._stream.send(SPANS, 0, lost, _encode(spans))
