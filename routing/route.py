"""Where one call goes, as the router decided."""

from routing.telemetry.call_trace import CallTrace
from routing.versions import Decision, Version


class Route:
    """Where one call goes. Kept for as long as the call waits, since a change of the rollout may send it elsewhere."""

    def __init__(self, bucket: int, forced: Version | None, decision: Decision, trace: CallTrace | None = None) -> None:
        self.bucket = bucket
        self.forced = forced
        self.decision = decision
        self.trace = trace

    @property
    def trace_id(self) -> str | None:
        """The trace's, where the call is sampled."""
        return None if self.trace is None else self.trace.trace_id
