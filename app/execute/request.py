"""What the execute lane holds of one request."""

from pools.calls import Call, Program
from poolshift.worker.tracing.traceparent import Carried, trace_id_of
from routing.router import Route
from routing.telemetry.call_trace import CallTrace


class Request:
    """What is known of one request so far; an error at any point finds here what its answer needs."""

    def __init__(
        self,
        execution_id: str,
        headers: dict[bytes, bytes],
        began: float,
        trace: CallTrace | None,
        traceparent: str | None,
        carried: Carried | None,
    ) -> None:
        """`began` is by `time.perf_counter`: the event loop's own clock counts whole milliseconds.

        `trace` is there where the call is sampled, else the `traceparent` that came in; `carried` came in beside it.
        """
        self.execution_id = execution_id
        self.headers = headers
        self.began = began
        self.trace = trace
        self.traceparent = traceparent
        self.carried = carried
        self.owner: str | None = None
        """The owner of what the call makes: its session and its job."""
        self.received = 0
        """Bytes of the body."""
        self.route: Route | None = None
        self.program: Program | None = None
        self.call: Call | None = None
        self.is_counted = False
        """By the router, which counts every call that is handed to it; one that fails before, the lane counts."""
        self.error: str | None = None
        """The code of the answer, where it is one."""

    @property
    def trace_id(self) -> str | None:
        """The trace that its log lines belong to."""
        if self.trace is not None:
            return self.trace.trace_id
        return trace_id_of(self.traceparent)
