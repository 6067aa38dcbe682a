"""Hands finished spans to an OTLP collector, behind the calls: one that is down or slow costs spans, not time."""

import asyncio
import threading
from collections.abc import Callable, Sequence

import structlog
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from routing.recorder import SpanOutcome

FLUSH_TIMEOUT_S = 2.0
"""The end of the service waits so long for what is still queued."""

CountSpans = Callable[[SpanOutcome, int], None]

_log = structlog.stdlib.get_logger("poolshift.tracing")


class _CountingExporter(SpanExporter):
    """Counts what the exporter underneath took and what it lost. It runs in the processor's thread."""

    def __init__(self, exporter: SpanExporter, count: CountSpans) -> None:
        self.taken = 0
        self._exporter = exporter
        self._count = count

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.taken += len(spans)
        result = self._exporter.export(spans)
        self._count("exported" if result is SpanExportResult.SUCCESS else "failed", len(spans))
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()


class SpanExport:
    """A bounded queue and a thread that empties it. What finds the queue full is dropped and counted."""

    def __init__(
        self,
        resource: Resource,
        count: CountSpans,
        *,
        endpoint: str | None = None,
        max_queue_size: int = 2048,
        max_batch_size: int = 512,
        interval_ms: float = 5000,
    ) -> None:
        """`endpoint` None is what OpenTelemetry's variables say; timeout, headers and TLS are always as they say."""
        self.resource = resource
        self._count = count
        self._max_queue_size = max_queue_size
        self._offered = 0
        self._exporter = _CountingExporter(OTLPSpanExporter(endpoint=endpoint), count)
        self._processor = BatchSpanProcessor(
            self._exporter,
            max_queue_size=max_queue_size,
            max_export_batch_size=max_batch_size,
            schedule_delay_millis=interval_ms,
        )

    def offer(self, span: ReadableSpan) -> None:
        """Queues a span that has ended. Never blocks."""
        # Counted here, since the processor drops in silence; each of the two numbers has one thread that writes it.
        if self._offered - self._exporter.taken >= self._max_queue_size:
            self._count("dropped", 1)
            return
        self._offered += 1
        self._processor.on_end(span)

    async def aclose(self) -> None:
        """Flushes for at most `FLUSH_TIMEOUT_S`."""
        loop = asyncio.get_running_loop()
        flushed = asyncio.Event()

        def flush() -> None:
            self._processor.shutdown()  # type: ignore[no-untyped-call]
            try:
                loop.call_soon_threadsafe(flushed.set)
            except RuntimeError:
                pass  # nobody waits any more: the loop is closed

        # A daemon, so that a collector which hangs does not keep the process either.
        threading.Thread(target=flush, name="flush-spans", daemon=True).start()
        try:
            async with asyncio.timeout(FLUSH_TIMEOUT_S):
                await flushed.wait()
        except TimeoutError:
            _log.warning("the collector did not take the last spans", timeout_s=FLUSH_TIMEOUT_S)
