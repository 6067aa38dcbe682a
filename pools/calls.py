"""One call of a program: what goes into a pool and what comes out."""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from pools.events import EventSink
from poolshift.worker.definitions import Definition
from poolshift.worker.lm import LMSettings, LMUsage
from poolshift.worker.tracing.traceparent import Carried, trace_id_of


class Program:
    """A definition under a name. `key` is unique: an id that is deleted and made anew gets another."""

    def __init__(self, key: str, program_id: str, definition: Definition) -> None:
        self.key = key
        self.id = program_id
        self.definition = definition

    def __repr__(self) -> str:
        return f"<Program {self.key} {self.id!r}>"


class RunObserver(Protocol):
    """Is told of each run of a sampled call: there are several where a worker died or the rollout changed."""

    @property
    def trace_id(self) -> str:
        """The trace's id, as logs have it."""
        ...

    def run_begins(self, worker_pid: int) -> str:
        """A worker is to get the call; returns the traceparent for it. Without an end, it never got it."""
        ...

    def run_ended(self, error: Exception | None, spans: Sequence[msgspec.Raw]) -> None:
        """The run is over; `spans` are what the worker recorded, each as JSON (`poolshift.worker.tracing`)."""


class Call:
    """A program to run once.

    `deadline` is a time of the event loop's clock, in seconds; it covers the wait in the queue and the run. `inputs`
    are JSON, parsed by the worker. Calls of one session share a place in the queue and prefer one worker.
    """

    def __init__(
        self,
        execution_id: str,
        program: Program,
        inputs: bytes | msgspec.Raw,
        deadline: float,
        session_id: str | None = None,
        traceparent: str | None = None,
        carried: Carried | None = None,
        trace: RunObserver | None = None,
        lm: LMSettings | None = None,
    ) -> None:
        """`traceparent` is that of a call that is not sampled, `trace` is there for one that is.

        `carried` came beside either of them. A DSPy program runs on `lm`.
        """
        self.execution_id = execution_id
        self.program = program
        self.inputs = inputs
        self.deadline = deadline
        self.session_id = session_id
        self.traceparent = traceparent
        self.carried = carried
        self.trace = trace
        self.lm = lm
        self.events: EventSink | None = None
        """Who listens to what the program says on its way; without it the worker sends none of it."""
        self.is_accepted = False
        """Whether a pool has taken the call on: from then on it is neither refused nor shed. The pool sets it."""
        self.is_retry = False
        """Whether the call runs for the second time, since its worker died. The router sets it, once at most."""
        self.dispatched_at = 0.0
        """When it was given to a worker, by `time.perf_counter`; 0 while it was not. The pool fills it in."""
        self.is_cold = False
        """Tells that its worker is young or loads the program first: slow for a reason that is no version's."""
        self.queued_s = 0.0
        """How long it waited for a worker, in seconds; the pool fills it in."""
        self.backpressure_s = 0.0
        """How long its worker waited for `events` to take more, in seconds; the pool fills it in."""

    def __repr__(self) -> str:
        return f"<Call {self.execution_id} program={self.program.id!r} session={self.session_id!r} lm={self.lm!r}>"

    @property
    def is_repeatable(self) -> bool:
        """Whether it may be run again from the start: nobody would hear the same events twice."""
        return self.program.definition.idempotent and (self.events is None or not self.events.has_taken)

    def log_ids(self) -> dict[str, str | None]:
        """What a log line about it says."""
        trace_id = self.trace.trace_id if self.trace is not None else trace_id_of(self.traceparent)
        return {"program_id": self.program.id, "execution_id": self.execution_id, "trace_id": trace_id}


class Result:
    """A call that ended well. `run_s` is the time in the program, in seconds, as its worker measured it."""

    def __init__(self, outputs: msgspec.Raw, run_s: float, usage: LMUsage | None = None) -> None:
        self.outputs = outputs
        self.run_s = run_s
        self.usage = usage
