"""One load of a program that a worker does without running it."""

import asyncio
from collections.abc import Callable
from typing import Final

import msgspec

from pools.calls import Program
from pools.errors import ExecutionError, LoadTimeout
from pools.process.interface import LoadOrder
from poolshift.worker.framing import frame_of_two
from poolshift.worker.messages import Load
from poolshift.worker.tracing.traceparent import trace_id_of

WARMING_ID: Final = "warming"
"""Stands in for the execution of a load that no call waits for."""

_encoder: Final = msgspec.json.Encoder()


class RunningLoad:
    """A load, from its request to its end."""

    def __init__(
        self, program: Program, order: LoadOrder, limit_s: float, on_end: Callable[[ExecutionError | None], None]
    ) -> None:
        """Takes the time that it may last, in seconds. `on_end` is called once, with the failure if there is one."""
        self.program = program
        self.order = order
        self.id = order.execution_id or WARMING_ID
        self.on_end = on_end
        self.due = asyncio.get_running_loop().time() + limit_s
        """The time of the loop at which the worker is killed."""
        self._limit_s = limit_s

    def __repr__(self) -> str:
        return f"<RunningLoad {self.program.id!r} for {self.id}>"

    def timed_out(self) -> LoadTimeout:
        """Makes the error of a load whose worker was killed at `due`."""
        return LoadTimeout(f"the program did not load within {self._limit_s:g} s; its worker was killed")

    def log_ids(self) -> dict[str, str | None]:
        """Returns the ids for a log line about it."""
        order = self.order
        return {
            "program_id": self.program.id,
            "execution_id": order.execution_id,
            "trace_id": trace_id_of(order.traceparent),
        }


def load_request(load: RunningLoad, number: int, *, is_new: bool) -> bytes:
    """Writes the frame that asks for a load; a definition that is new to the worker goes along. Raises FrameError."""
    definition = load.program.definition if is_new else None
    request = Load(load.id, load.program.id, number, definition, load.order.traceparent)
    return frame_of_two(_encoder.encode(request), b"")
