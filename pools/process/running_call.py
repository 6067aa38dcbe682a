"""One call on a worker, from its request to its reply."""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from pools.calls import Call, Result
from pools.errors import ExecutionTimeout
from pools.events import FlowControl
from pools.process.exits import ExitCause

CANCEL_GRACE_S: Final = 2.0
"""Time from the cancellation of a call that runs beside others to the end of its worker, if it goes on."""


class RunningCall:
    """A call that a worker has, and whoever is told of its end."""

    def __init__(self, call: Call, on_end: Callable[[Result | Exception], None], *, is_beside: bool) -> None:
        """`on_end` is called once. A call that `is_beside` runs, or may run, beside others, and can be cancelled."""
        self.call = call
        self.is_beside = is_beside
        self.load_due: float | None = None
        """The time of the loop by which the worker must have loaded the program; None if it does not load it."""
        self.load_began = 0.0
        """The time of `time.perf_counter` from which it may be loading: the loop's has whole milliseconds."""
        self.flow_control: FlowControl | None = None
        self.is_scanning = False
        """The outputs have arrived, and a thread sees if they are JSON."""
        self.cancelled_for: ExitCause | None = None
        self._cancel_due = math.inf
        self._on_end: Callable[[Result | Exception], None] | None = on_end

    def __repr__(self) -> str:
        return f"<RunningCall {self.call.execution_id} beside={self.is_beside} cancelled_for={self.cancelled_for}>"

    @property
    def due(self) -> float:
        """The time of the loop by which it must end, or have loaded its program, or have obeyed its cancellation."""
        if self.cancelled_for is not None:
            return self._cancel_due
        return self.call.deadline if self.load_due is None else self.load_due

    def cancel(self, cause: ExitCause) -> float:
        """Notes that the worker was asked to end it. Returns the time of the loop by which it must have."""
        self.cancelled_for = cause
        self._cancel_due = asyncio.get_running_loop().time() + CANCEL_GRACE_S
        return self._cancel_due

    def end_load(self) -> float:
        """Ends the time in which the program loads, and returns how long it was, in seconds."""
        seconds, self.load_due = time.perf_counter() - self.load_began, None
        self.call.load_s += seconds
        self.call.is_loading = False
        return seconds

    def end(self, outcome: Result | Exception, spans: Sequence[msgspec.Raw]) -> None:
        """Tells the call's end, once. One that was cancelled for its deadline has run out of time, whatever it says."""
        on_end, self._on_end = self._on_end, None
        if on_end is None:
            return
        if self.cancelled_for is ExitCause.TIMEOUT:
            outcome = ExecutionTimeout("the deadline passed while the program ran; it was cancelled")
        call = self.call
        if self.load_due is not None:
            self.end_load()
        try:
            if call.trace is not None:
                call.trace.run_ended(None if isinstance(outcome, Result) else outcome, spans)
            if self.flow_control is not None:
                backpressure_s, self.flow_control = self.flow_control.close(), None
                call.backpressure_s += backpressure_s
        finally:
            on_end(outcome)
