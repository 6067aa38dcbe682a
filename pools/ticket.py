"""A call and where it is in its pool."""

import asyncio

from pools.calls import Call, Result
from pools.state import Worker


class Ticket:
    """A call on its way to a worker and back; `answer` is resolved by the engine, one way or the other."""

    def __init__(self, call: Call, answer: asyncio.Future[Result]) -> None:
        self.call = call
        self.answer = answer
        self.since = 0.0
        """When its wait in the queue began, by `time.perf_counter`."""
        self.give_up_at = 0.0
        """When its wait in the queue ends at the latest, by the event loop's clock."""
        self.worker: Worker | None = None
        """Where it runs."""
