"""One call of a program: what goes into a pool and what comes out."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import msgspec

from pools.programs import Program

EventKind = Literal["progress", "output"]
OnEvent = Callable[[EventKind, msgspec.Raw], None]


@dataclass(slots=True, eq=False)
class Call:
    """A program to run once.

    `deadline` is a time of the event loop's clock, in seconds; it covers the wait in the queue and the run. `inputs`
    are JSON, parsed by the worker. Calls of one session share a place in the queue and prefer one worker.
    """

    execution_id: str
    program: Program
    inputs: bytes | msgspec.Raw
    deadline: float
    session_id: str | None = None
    traceparent: str | None = None
    on_event: OnEvent | None = None
    dispatched_at: float = 0.0
    """When it was given to a worker, by `time.perf_counter`; 0 while it was not. The pool fills it in."""
    queued_s: float = 0.0
    """How long it waited for a worker, in seconds; the pool fills it in."""


@dataclass(frozen=True, slots=True)
class Result:
    """A call that ended well. `run_s` is the time in the program, in seconds, as its worker measured it."""

    outputs: msgspec.Raw
    run_s: float
