"""Traces calls if the worker's Python has OpenTelemetry, and runs them all the same if not.

Without `opentelemetry-api` a program finds no current span, and a traceparent goes no further than the log. Without
`opentelemetry-sdk` a sampled call has no span `program` in its trace. The service's own spans are there in any case.
"""

from collections.abc import Callable, Coroutine
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from poolshift.worker.messages import Done, Failed, Run

if TYPE_CHECKING:
    from poolshift.worker.tracing.program import ProgramTracer, Recording

Ended = tuple["Done | Failed", bytes]
"""The reply to a call, and the outputs as JSON."""
RunCall = Callable[[], Ended]


def has_api() -> bool:
    """Says if `opentelemetry-api` is installed."""
    return _is_installed("opentelemetry.trace") and _is_installed("opentelemetry.baggage")


def has_sdk() -> bool:
    """Says if `opentelemetry-sdk` is installed, and the API that it needs."""
    return has_api() and _is_installed("opentelemetry.sdk.trace")


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # not even what the module is in
        return False


class CallTracer:
    """Runs the calls that carry a trace context; a worker makes one at the first of them."""

    def __init__(self) -> None:
        self._attached: Callable[[Any], Any] | None = None
        self._records = has_sdk()
        self._program_tracer: ProgramTracer | None = None
        if has_api():
            from poolshift.worker.tracing import context  # noqa: PLC0415  # most workers need no OpenTelemetry

            self._attached, self._context_of = context.Attached, context.context_of

    def run(self, request: Run, run: RunCall) -> Ended:
        """Runs a call in its trace context; in a span, which goes along with the reply, if the call is sampled."""
        if self._attached is None:
            return run()
        if request.record and request.traceparent is not None and self._records:
            return self._record(request, request.traceparent, run)
        with self._attached(self._context_of(request.traceparent, request.carried)):
            return run()

    async def run_beside_others(self, request: Run, run: Coroutine[Any, Any, Ended]) -> Ended:
        """As `run`, for a call that runs in a task."""
        if self._attached is None:
            return await run
        if request.record and request.traceparent is not None and self._records:
            recording = self._begin(request, request.traceparent)
            with self._attached(recording.context):
                reply, outputs = await run
                reply.spans = recording.end(reply)
                return reply, outputs
        with self._attached(self._context_of(request.traceparent, request.carried)):
            return await run

    def _record(self, request: Run, traceparent: str, run: RunCall) -> Ended:
        recording = self._begin(request, traceparent)
        assert self._attached is not None
        with self._attached(recording.context):
            reply, outputs = run()
            reply.spans = recording.end(reply)
            return reply, outputs

    def _begin(self, request: Run, traceparent: str) -> "Recording":
        if self._program_tracer is None:
            from poolshift.worker.tracing.program import ProgramTracer  # noqa: PLC0415  # the SDK takes long to import

            self._program_tracer = ProgramTracer()
        return self._program_tracer.record(request.program_id, traceparent, request.carried)
