"""A call that a front runs, its client, and the worker on loan that runs it."""

import time
from collections.abc import Callable
from typing import Any, Protocol

from app.fronts.granted import Granted
from pools.calls import Call, Result
from pools.process.process import WorkerProcess
from pools.process.stats import ProcessStats
from routing.telemetry.call_trace import CallTrace


class Client(Protocol):
    """The connection of a call."""

    def span_attributes(self, call: "DirectCall") -> dict[str, str | int]:
        """Returns the attributes of the server's span of a sampled call."""
        ...

    def answer_result(self, lines: bytes, body: bytes) -> None:
        """Answers with status 200, these lines of headers and a body."""

    def send_failed(self, failure: bytes, body: bytes) -> None:
        """Has the service end the call."""


class DirectCall(Call):
    """A call that a front runs."""

    def __init__(
        self, granted: Granted, client: Client, body: bytes, inputs: Any, execution_id: str, now: float
    ) -> None:
        super().__init__(execution_id, granted.program, inputs, now + granted.timeout_s)
        self.is_accepted = True
        self.granted = granted
        self.client: Client | None = client
        """None once the client has left."""
        self.body = body
        self.began = time.perf_counter()
        self.give_up_at = 0.0
        self.borrowed: Borrowed | None = None
        """The worker that runs it, or ran it."""
        self.served_s = 0.0
        self.span: CallTrace | None = None
        """The trace, if the call is sampled; also its `trace`, for the pool."""


class BorrowedHandle:
    """The hold of a front on a worker's process, which is the service's."""

    node: str | None = None
    fault: str | None = None

    def __init__(self, kill: Callable[[], None]) -> None:
        self._kill = kill

    def send_signal(self, number: Any) -> None:
        """Has the service kill the worker, whatever the signal."""
        self._kill()

    def watch(self, on_death: Callable[[], None]) -> None:
        """Does nothing: the service tells of the death."""

    def stats(self) -> ProcessStats | None:
        """Nothing: the service measures it."""
        return None

    def ask_memory(self, listener: Callable[[int], None]) -> None:
        """Knows nothing."""
        listener(0)

    def close(self) -> None:
        """Lets go of nothing."""


class Borrowed:
    """A worker on loan."""

    def __init__(
        self, lease: int, process: WorkerProcess, on_end: "Callable[[Borrowed, Result | Exception], None]"
    ) -> None:
        self.lease = lease
        self.process = process
        self.call: DirectCall | None = None
        self.is_recalled = False
        self._on_end = on_end

    def ended(self, outcome: Result | Exception) -> None:
        """Ends its call."""
        self._on_end(self, outcome)

    @property
    def is_fit(self) -> bool:
        """Tells if it may run another call."""
        return self.process.ended_for is None and self.process.left_by is None
