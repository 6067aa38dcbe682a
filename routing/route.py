"""Where one call goes, as the router decided."""

import msgspec

from routing.call_trace import CallTrace
from routing.versions import Decision, Version


class Route(msgspec.Struct, eq=False):
    """Where one call goes. Kept for as long as the call waits, since a change of the rollout may send it elsewhere."""

    bucket: int
    forced: Version | None
    decision: Decision
    trace: CallTrace | None = None

    @property
    def trace_id(self) -> str | None:
        """The trace's, where the call is sampled."""
        return None if self.trace is None else self.trace.trace_id
