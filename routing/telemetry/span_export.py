"""Hands finished spans to the process that exports them: a collector that is down or slow costs spans, not time."""

import asyncio
import os
import socket
from collections.abc import Callable
from contextlib import suppress

import msgspec
import structlog

from common import own_process
from common.background import Background
from common.backoff import backoff_s
from common.log_levels import named_level
from pools.process.channel import Channel
from poolshift.worker.framing import frame
from routing.telemetry.spans import (
    FLUSH_TIMEOUT_S,
    MAX_SPANS_AT_ONCE,
    EncodedSpans,
    Export,
    FromExporter,
    Last,
    Outcome,
    Span,
    SpanOutcome,
)

HAND_OVER_S = 0.2
"""Time for which spans wait for others, to be handed over in one piece."""
END_TIMEOUT_S = FLUSH_TIMEOUT_S + 1.0
"""Limit of the wait for the exporter at the end of the service: an exporter that hangs is killed."""
_LONG_LIFE_S = 60.0
"""Life after which an exporter counts as having worked: failures in a row are counted from 0 again."""

CountSpans = Callable[[SpanOutcome, int], None]

_decoder: msgspec.json.Decoder[FromExporter] = msgspec.json.Decoder(FromExporter)
_encode = msgspec.json.Encoder().encode
_log = structlog.stdlib.get_logger("poolshift.tracing")


class SpanExport:
    """The exporter (`routing.telemetry.span_exporter`), replaced when it dies, and the spans on their way to it.

    No more than the queue's size are on their way at once, from here until the exporter has said what became of them.
    What comes on top is dropped and counted.
    """

    def __init__(self, how: Export, count: CountSpans, background: Background) -> None:
        self._how = how
        self._count = count
        self._waiting: list[Span | msgspec.Raw] = []
        self._handed_over = 0
        self._exported = 0
        self._timer: asyncio.TimerHandle | None = None
        self._channel: Channel | None = None
        self._is_closing = False
        self._has_ended = asyncio.Event()
        """Set once the last exporter has ended."""
        self._background = background
        self._loop = asyncio.get_running_loop()
        self._exporter = background.run("span_exporter", self._keep_exporter)

    def offer(self, span: Span | msgspec.Raw) -> None:
        """Queues a span that has ended, or one that another process of the service has encoded. Never blocks."""
        if len(self._waiting) + self._handed_over >= self._how.max_queue_size:
            self._count("dropped", 1)
            return
        self._waiting.append(span)
        if self._timer is None:
            self._timer = self._loop.call_later(HAND_OVER_S, self._hand_over)
        elif len(self._waiting) >= self._how.max_batch_size:
            self._hand_over()

    def lost(self, count: int) -> None:
        """Counts spans that cannot be exported."""
        self._count("failed", count)

    async def aclose(self) -> None:
        """Has all spans exported; gives up on those that the collector does not take in `END_TIMEOUT_S`."""
        self._is_closing = True
        left = len(self._waiting) + self._handed_over + self._exported
        self._hand_over()
        if self._channel is not None:
            self._tell(self._channel, Last())
            with suppress(TimeoutError):
                async with asyncio.timeout(END_TIMEOUT_S):
                    await self._has_ended.wait()
        if lost := left - self._exported:  # nobody asks for the counts any more
            _log.warning("the collector did not take the last spans", count=lost)
        await self._background.stop(self._exporter)

    def _hand_over(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._channel is not None and self._waiting:
            spans, self._waiting = self._waiting, []
            self._handed_over += len(spans)
            for first in range(0, len(spans), MAX_SPANS_AT_ONCE):
                self._tell(self._channel, EncodedSpans(spans[first : first + MAX_SPANS_AT_ONCE]))

    def _tell(self, channel: Channel, message: Export | EncodedSpans | Last) -> None:
        channel.send(frame(_encode(message)))

    # --- the exporter

    async def _keep_exporter(self) -> None:
        await self._run_exporters()
        self._has_ended.set()
        await asyncio.Event().wait()  # a task that returns would be started again

    async def _run_exporters(self) -> None:
        """Runs one exporter after another until the end of the service."""
        failures = 0
        while not self._is_closing:
            began = self._loop.time()
            try:
                how_it_ended = await self._run_exporter()
            except OSError as error:
                how_it_ended = str(error)
            self.lost(self._handed_over)  # what it had
            self._handed_over = 0
            if self._is_closing:
                return
            failures = failures + 1 if self._loop.time() - began < _LONG_LIFE_S else 1
            _log.error("the exporter of spans ended; another is started", reason=how_it_ended)
            await asyncio.sleep(backoff_s(failures))

    async def _run_exporter(self) -> str:
        """Runs an exporter until it ends; returns how it ended."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            exporter = await own_process.start(
                "routing.telemetry.span_exporter",
                str(theirs.fileno()),
                variables=os.environ,
                pass_fds=[theirs.fileno()],
            )
            theirs.close()
            fd = ours.detach()
            channel = self._channel = Channel(fd, fd, self._take, lambda _: _kill(exporter))
            try:
                self._tell(channel, self._how)
                self._hand_over()
                return f"exit status {await exporter.wait()}"
            finally:
                channel.drain()
                channel.close()
                self._channel = None
                await own_process.end(exporter)

    def _take(self, payload: bytes | memoryview) -> None:
        message = _decoder.decode(payload)
        if isinstance(message, Outcome):
            self._handed_over -= message.count
            self._exported += message.count if message.outcome == "exported" else 0
            self._count(message.outcome, message.count)
        else:
            structlog.stdlib.get_logger(message.logger).log(named_level(message.level), message.text)


def _kill(exporter: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        exporter.kill()
