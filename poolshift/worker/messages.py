"""Messages between a pool and a worker, both ways, each a frame of two parts on the wire (`poolshift.worker.framing`).

The first part is the message, as JSON. The second is the JSON that a message is about: the inputs of `Run`, the data of
`Progress`, the outputs of `Done`. It is apart so that nobody scans it only to find its end.

A reply carries the execution's id and the worker's generation, so that a late or foreign reply is recognised.
"""

from typing import Annotated, Final, Literal

import msgspec

from poolshift.worker.definitions import Definition, Signature
from poolshift.worker.lm import LMSettings, LMUsage
from poolshift.worker.tracing.traceparent import Carried

EventKind = Literal["progress", "output"]
"""`progress` is what a generator yields, `output` a piece of an output (of the text that an LM writes)."""

CODE_CANCELLED: Final = "cancelled"
"""The code of a call that has ended by `Cancel`."""
CODE_OUTDATED: Final = "code_outdated"
"""The code of a failed check: there is other code on disk than this worker has. The detail is its revision."""

MAX_RETRY_AFTER_S = 86400.0
"""An LM that asks for a longer pause is taken to ask for this one."""

# Bounded, since a program can write to the worker's pipes, too.
_Number = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
_Pause = Annotated[float, msgspec.Meta(ge=0, le=MAX_RETRY_AFTER_S)]

_Revision = Annotated[str, msgspec.Meta(max_length=64)]

MAX_EVENT_BYTES = 1024 * 1024
"""A larger event is the program's error; so a sink that pauses in time has a bound in bytes."""


class Run(msgspec.Struct, tag="run", tag_field="op", omit_defaults=True):
    """Run a program once, on the inputs in the second part.

    The service and the worker know the program's definition by a `number`; the definition itself comes with the first
    call that has this number. With number 0 the worker forgets all definitions that it was told before. `record` asks
    for the spans of the program (`poolshift.worker.tracing.recorded_spans`) in the reply: the call is sampled.
    """

    id: str
    program_id: str
    number: int
    definition: Definition | None = None
    traceparent: str | None = None
    carried: Carried | None = None
    record: bool = False
    stream: bool = False
    lm: LMSettings | None = None
    lm_budget_s: float = 0.0


class Check(msgspec.Struct, tag="check", tag_field="op"):
    """Load a program's entrypoint and see that it takes the signature's inputs, without running it.

    If the definition has no signature, the worker derives it from the program. `as_called` asks it to load the program
    as its first call would, `setup()` included, with the code that the worker has, whatever is on disk.
    """

    id: str
    definition: Definition
    as_called: bool = False


class Load(msgspec.Struct, tag="load", tag_field="op", omit_defaults=True):
    """Load a program without running it: its code, `setup()`, and the checks of its inputs and outputs.

    The number and the definition are those of `Run`. The reply is `Loaded`, or `Failed` with the reason.
    """

    id: str
    program_id: str
    number: int
    definition: Definition | None = None
    traceparent: str | None = None


class Cancel(msgspec.Struct, tag="cancel", tag_field="op"):
    """Cancel one of the calls of a worker that runs many at once. Its reply still comes, if it has not."""

    id: str


class Flow(msgspec.Struct, tag="flow", tag_field="op"):
    """Let a call of a worker that runs many at once send events, or have it wait before its next one."""

    id: str
    is_open: bool


Request = Run | Check | Load | Cancel | Flow


class Ready(msgspec.Struct, tag="ready", tag_field="op"):
    """The worker's first message: it is up. `revision` is that of the code which it has (`CodeRevision`)."""

    gen: _Number
    pid: _Number
    revision: _Revision


class Loaded(msgspec.Struct, tag="loaded", tag_field="op", omit_defaults=True):
    """A program is loaded. A call of it runs from now on: the time until this message is no part of the call's.

    `is_concurrent` says that the worker runs many calls of it at once.
    """

    id: str
    gen: _Number
    is_concurrent: bool = False


class Progress(msgspec.Struct, tag="progress", tag_field="op", omit_defaults=True):
    """One event of a running program, with its data in the second part."""

    id: str
    gen: _Number
    kind: EventKind = "progress"


class Done(msgspec.Struct, tag="done", tag_field="op", omit_defaults=True):
    """The call has ended well; its outputs, checked against the signature, are the second part.

    `run_us` is the time in the program, in microseconds.
    """

    id: str
    gen: _Number
    run_us: _Number
    spans: list[msgspec.Raw] = []
    usage: LMUsage | None = None


class Failed(msgspec.Struct, tag="failed", tag_field="op", omit_defaults=True):
    """The call failed in an orderly way: `code` is one of the taxonomy's; `traceback` is for the log alone."""

    id: str
    gen: _Number
    run_us: _Number
    code: str
    detail: str
    field: str | None = None
    traceback: str | None = None
    spans: list[msgspec.Raw] = []
    retry_after_s: _Pause | None = None
    usage: LMUsage | None = None


class Checked(msgspec.Struct, tag="checked", tag_field="op", omit_defaults=True):
    """The definition can be loaded. `derived` is the signature that it leaves to the program."""

    id: str
    gen: _Number
    derived: Signature | None = None


class Left(msgspec.Struct, tag="left", tag_field="op"):
    """A worker that an execution has left in a state that is not for another program; `what` names it for the log.

    The message comes before the execution's reply, or after it.
    """

    id: str
    gen: _Number
    what: list[str]


class Blocked(msgspec.Struct, tag="blocked", tag_field="op"):
    """A call has held its worker's event loop for so many seconds, and may hold it still. No other could run."""

    id: str
    gen: _Number
    seconds: Annotated[float, msgspec.Meta(ge=0)]
    is_over: bool
    """True in the second message, once the event loop goes round again."""


Reply = Ready | Loaded | Progress | Done | Failed | Checked | Left | Blocked
