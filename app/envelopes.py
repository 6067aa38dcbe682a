"""What the execute lane reads and writes, and what it holds of one request.

Apart from the lane, which is compiled (docs/adr/0007): msgspec needs the classes of its structs as Python makes them.
"""

from typing import Annotated

import msgspec

from app.schemas import ID_PATTERN_OF_RE, MAX_ID_LENGTH
from pools.calls import Call
from pools.lm import LMUsage
from pools.programs import Program
from pools.trace_context import Carried, trace_id_of
from routing.call_trace import CallTrace
from routing.route import Route

_Identifier = Annotated[str, msgspec.Meta(pattern=ID_PATTERN_OF_RE, max_length=MAX_ID_LENGTH)]


class Envelope(msgspec.Struct, forbid_unknown_fields=True):
    """A request's body. `inputs` stay as they came."""

    inputs: msgspec.Raw
    session_id: _Identifier | None = None
    timeout_s: Annotated[float, msgspec.Meta(gt=0)] | None = None


class Answer(msgspec.Struct, omit_defaults=True):
    """The body of an answer that went well."""

    execution_id: str
    program_id: str
    pool_version: str
    outputs: msgspec.Raw
    duration_ms: float
    usage: LMUsage | None = None


class Request(msgspec.Struct, eq=False):
    """What is known of one request so far; an error at any point finds here what its answer needs."""

    execution_id: str
    headers: dict[bytes, bytes]
    began: float
    """By `time.perf_counter`: the event loop's own clock counts whole milliseconds."""
    trace: CallTrace | None = None
    """Where the call is sampled."""
    traceparent: str | None = None
    """What came in, where it is not sampled."""
    carried: Carried | None = None
    """What came in beside it."""
    received: int = 0
    route: Route | None = None
    program: Program | None = None
    call: Call | None = None
    error: str | None = None
    """The code of the answer, where it is one."""

    @property
    def trace_id(self) -> str | None:
        """The trace that its log lines belong to."""
        if self.trace is not None:
            return self.trace.trace_id
        return trace_id_of(self.traceparent)
