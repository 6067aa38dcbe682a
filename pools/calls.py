"""One call of a program, as it goes into a pool, and its result."""

from collections.abc import Callable, Sequence
from typing import Final, Protocol

import msgspec

from pools.events import EventSink
from poolshift.worker.definitions import Definition
from poolshift.worker.lm import LMSettings, LMUsage
from poolshift.worker.tracing.traceparent import Carried, trace_id_of

_encode: Final = msgspec.json.Encoder().encode
_WEIGHT_OF_NEWEST: Final = 0.1
"""The weight of the newest call in the moving average of service times."""


class Program:
    """A definition under a name. `key` is unique: an id that is deleted and created again gets another key.

    A program whose definition is replaced keeps its key and gets the next `revision`, as another object: a call goes on
    with the definition that it began with. A version's own definition is another object, with the same key.
    """

    def __init__(
        self, key: str, program_id: str, definition: Definition, revision: int = 1, version: str | None = None
    ) -> None:
        """Takes the `version` that alone runs the definition; None if every version runs it."""
        self.key = key
        self.id = program_id
        self.id_as_json = _encode(program_id)
        self.definition = definition
        self.revision = revision
        self.quarantine_key = f"{key}.{revision}" if version is None else f"{key}.{version}.{revision}"
        """Each definition of a program is judged by its own calls."""
        limits = definition.limits
        self.uses_lm = definition.uses_lm
        self.has_limits = limits is not None
        self.memory_mb = None if limits is None else limits.memory_mb
        self.max_concurrency = 0 if limits is None or limits.max_concurrency is None else limits.max_concurrency
        """The number of calls that run at once; 0 is no limit."""
        self.is_untried = version is not None
        """True for a version's own definition until a client's call has run it well. The router clears it."""

    def __repr__(self) -> str:
        return f"<Program {self.quarantine_key} {self.id!r}>"


class RunObserver(Protocol):
    """Listens to each run of a sampled call. There are several if a worker died or the rollout changed."""

    @property
    def trace_id(self) -> str:
        """The trace's id, as log lines show it."""
        ...

    def run_begins(self, worker_pid: int) -> str:
        """Notes that a pool is about to send the call to a worker, and returns the traceparent for the worker.

        If no end follows, the worker never got the call.
        """
        ...

    def run_ended(self, error: Exception | None, spans: Sequence[msgspec.Raw]) -> None:
        """Notes the end of the run. `spans` are the worker's, each as JSON (`poolshift.worker.tracing`)."""


class Call:
    """A program to run once.

    `deadline` is a time of the event loop's clock, in seconds; it covers the wait in the queue and the run. `inputs`
    are JSON, which the worker parses. Calls of one session share a place in the queue and prefer one worker.
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
        """Takes `trace` for a sampled call, and `traceparent` for any other.

        `carried` has the headers that the client sent beside its traceparent. A DSPy program runs on `lm`.
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
        self.entry: object | None = None
        """The entry of the pool that has the call, for the pool alone. The pool sets it."""
        self.choose: Callable[[Call, str], None] | None = None
        """Gives a call the program and the LM of a version. Set only if the versions differ in one of them."""
        self.events: EventSink | None = None
        """The sink of the program's events. Without a sink the worker sends none."""
        self.is_background = False
        """True for a job. A pool leaves its time out of the estimate of how long a call takes."""
        self.is_accepted = False
        """True once a pool has accepted the call: no pool refuses or sheds it from then on. The pool sets it."""
        self.is_retry = False
        """True if the call runs for the second time, because its worker died. The router sets it, once at most."""
        self.dispatched_at = 0.0
        """Time of `time.perf_counter` at which the pool gave the call to a worker; 0 before that. The pool sets it."""
        self.worker_pid = 0
        """The process that runs the call, or ran it last. The pool sets it."""
        self.is_cold = False
        """True if the worker is young or loads the program first. A call is slow for that on any version."""
        self.is_loading = False
        """True while a worker loads the program for the call. The pool sets it."""
        self.queued_s = 0.0
        """Time that the call waited for a worker, in seconds. The pool sets it."""
        self.load_s = 0.0
        """Time that the call waited while a worker loaded the program, in seconds. The pool sets it."""
        self.backpressure_s = 0.0
        """Time that the worker waited for `events` to take more, in seconds. The pool sets it."""

    def __repr__(self) -> str:
        return f"<Call {self.execution_id} program={self.program.id!r} session={self.session_id!r} lm={self.lm!r}>"

    @property
    def is_repeatable(self) -> bool:
        """Tells if the call may run again from the start: an idempotent program, no event of which is out."""
        return self.program.definition.idempotent and (self.events is None or not self.events.has_taken)

    @property
    def has_nothing_beside_inputs(self) -> bool:
        """Tells if its worker is to know no more than its id, its program and its inputs."""
        return (
            self.trace is None
            and self.traceparent is None
            and self.events is None
            and self.lm is None
            and self.carried is None
        )

    def log_ids(self) -> dict[str, str | None]:
        """Returns the ids for a log line about the call."""
        trace_id = self.trace.trace_id if self.trace is not None else trace_id_of(self.traceparent)
        return {"program_id": self.program.id, "execution_id": self.execution_id, "trace_id": trace_id}


class Result:
    """The result of a call that succeeded. `run_s` is the time in the program, in seconds, by the worker's clock."""

    def __init__(self, outputs: msgspec.Raw, run_s: float, usage: LMUsage | None = None) -> None:
        self.outputs = outputs
        self.run_s = run_s
        self.usage = usage
        self.told_at = 0.0
        """The time of `time.perf_counter` at which the pool told the result. The pool sets it."""


OnOutcome = Callable[[Result | Exception], None]
"""Takes the outcome of a call: its result, or one of `pools.errors`."""


def average_with(average_s: float, newest_s: float) -> float:
    """Returns the moving average of service times, in seconds, with one more call; 0 is the average of none."""
    return newest_s if average_s == 0.0 else average_s + _WEIGHT_OF_NEWEST * (newest_s - average_s)
