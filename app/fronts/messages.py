"""Messages between the service and its fronts, beside the bytes of calls and answers."""

from typing import Any

import msgspec

from routing.telemetry.spans import TraceState

ProgramName = tuple[str, str, str]
"""A program's key, its id and its key in the quarantine."""


class FrontPlan(msgspec.Struct):
    """A front's command line; the limits are those of `app.execute.connections.Limits`, in seconds and bytes."""

    number: int
    """Counted from 0."""
    fronts: int
    stream_fd: int
    handover_fd: int
    gate_fd: int
    head_s: float
    body_s: float
    answer_s: float
    unread_bytes: int
    queue_limit: int
    checkout_timeout_s: float
    log_format: str
    log_level: str


class Grant(msgspec.Struct, array_like=True):
    """The service's leave to run calls with the same head without it, and all that they need."""

    epoch: int
    """The epoch of the gate in which it holds."""
    flow: int
    """Names the head's calls in reports."""
    definition: int
    program: ProgramName
    timeout_s: float
    version_lines: bytes
    """The lines of an answer's first headers."""
    sampling: tuple[float, bool] | None
    """The share of traces to sample, and if a trace that comes in goes by its flag; None if nothing is exported."""
    reason: str
    """The reason for which the calls go to V2 (`routing.versions.Reason`)."""
    revision: int
    """The rollout's."""
    max_body_bytes: int


class Loan(msgspec.Struct, array_like=True):
    """A worker that goes to another process, as `pools.process.process.Handed` has it."""

    lease: int
    pid: int
    generation: int
    load_timeout_s: float
    revision: str
    definitions: list[tuple[int, bool]]
    definitions_size: int
    ended_id: str
    ended_program: ProgramName | None
    left_by: ProgramName | None


class Killed(msgspec.Struct, array_like=True):
    """A front wants a worker dead, for a cause that is a `pools.process.exits.ExitCause`."""

    lease: int
    cause: str
    reason: str | None
    fault: str | None


class Death(msgspec.Struct, array_like=True):
    """A worker on loan is dead, as `pools.process.exits.Exit` has it."""

    lease: int
    cause: str
    description: str
    cpu_s: float
    is_ours: bool


class Ran(msgspec.Struct, array_like=True):
    """A call that a front has run and answered; times in seconds, sizes in bytes."""

    flow: int
    lease: int
    seconds: float
    queued_s: float
    served_s: float
    """The time on the worker."""
    received: int
    sent: int
    """-1 if the client has left before the answer."""
    trace_id: str | None = None
    """The trace of a sampled call."""


class Failure(msgspec.Struct, array_like=True):
    """A call that a front has begun, and that the service is to end: it failed, or it is to run elsewhere."""

    flow: int
    lease: int
    """The worker that ran it; -1 if none has."""
    error: str
    """The name of the class."""
    detail: str
    fields: dict[str, Any]
    """The attributes of the error."""
    execution_id: str
    began_ago_s: float
    left_s: float
    """The time until its deadline."""
    queued_s: float
    load_s: float
    dispatched_ago_s: float
    """-1 if no worker got it."""
    worker_pid: int
    is_cold: bool
    served_s: float
    trace: TraceState | None
    """The trace of a sampled call, to go on with."""


class Running(msgspec.Struct, array_like=True):
    """A call that a front runs at the moment."""

    lease: int
    execution_id: str
    program_id: str
    running_s: float


class State(msgspec.Struct, array_like=True):
    """All that a front has told, up to the question with this number, and what it runs now."""

    number: int
    running: list[Running]
