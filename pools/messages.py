"""The messages between a pool and a worker, both ways. On the wire each is a frame (see `pools.framing`) of JSON.

A reply carries the execution's id and the worker's generation, so that a late or foreign one is told apart and dropped.
"""

import msgspec

from pools.definitions import Definition
from pools.events import EventKind
from pools.lm import LMSettings, LMUsage
from pools.trace_context import Carried


class Run(msgspec.Struct, tag="run", tag_field="op", omit_defaults=True):
    """Run a program once.

    Its definition has a `number` between the two, and comes along with the first call that it is in. Number 0 begins
    anew: the worker forgets all that it was told before. `record` asks for the spans of the program
    (`pools.recorded_spans`) in the reply: the call is sampled.
    """

    id: str
    program_id: str
    number: int
    inputs: msgspec.Raw
    definition: Definition | None = None
    traceparent: str | None = None
    carried: Carried | None = None
    record: bool = False
    stream: bool = False
    lm: LMSettings | None = None
    lm_budget_s: float = 0.0


class Check(msgspec.Struct, tag="check", tag_field="op"):
    """Load a program's entrypoint and see that it takes the signature's inputs, without running it."""

    id: str
    definition: Definition


Request = Run | Check


class Ready(msgspec.Struct, tag="ready", tag_field="op"):
    """The worker's first message: it is up."""

    gen: int
    pid: int


class Progress(msgspec.Struct, tag="progress", tag_field="op", omit_defaults=True):
    """What a running program says on its way."""

    id: str
    gen: int
    data: msgspec.Raw
    kind: EventKind = "progress"


class Done(msgspec.Struct, tag="done", tag_field="op", omit_defaults=True):
    """The outputs, checked against the signature. `run_us` is the time in the program, in microseconds."""

    id: str
    gen: int
    run_us: int
    outputs: msgspec.Raw = msgspec.Raw(b"{}")
    spans: list[msgspec.Raw] = []
    usage: LMUsage | None = None


class Failed(msgspec.Struct, tag="failed", tag_field="op", omit_defaults=True):
    """The call failed in an orderly way: `code` is one of the taxonomy's; `traceback` is for the log alone."""

    id: str
    gen: int
    run_us: int
    code: str
    detail: str
    field: str | None = None
    traceback: str | None = None
    spans: list[msgspec.Raw] = []
    retry_after_s: float | None = None
    usage: LMUsage | None = None


Reply = Ready | Progress | Done | Failed
