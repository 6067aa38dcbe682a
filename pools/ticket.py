"""A call and where it is in its pool."""

import asyncio

import msgspec

from pools.calls import Call, Result
from pools.state import Worker


class Ticket(msgspec.Struct, eq=False):
    """A call on its way to a worker and back; `answer` is resolved by the engine, one way or the other."""

    call: Call
    answer: asyncio.Future[Result]
    since: float = 0.0
    """When its wait in the queue began, by `time.perf_counter`."""
    give_up_at: float = 0.0
    """When its wait in the queue ends at the latest, by the event loop's clock."""
    worker: Worker | None = None
    """Where it runs."""
