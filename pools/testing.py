"""Fakes of a pool's interfaces for fast tests: real implementations, whose every turn the test decides.

`FakePool` stands behind the router. A test reads which calls wait and which run, and ends each by hand.
"""

import asyncio
import time
from collections.abc import Callable

import msgspec

from pools.calls import Call, Program, Result
from pools.errors import ExecutionError, PoolClosed, Withdrawn
from pools.process.exits import ExitCause
from pools.protocol import PoolSnapshot
from poolshift.worker.definitions import Definition, Field, Signature

Answer = Result | ExecutionError
"""How a call ends."""


def echo_program(name: str = "echo", *, idempotent: bool = False) -> Program:
    """A program with one string in and out, which no worker is needed for."""
    text = Field("text", "string")
    definition = Definition("python", Signature((text,), (text,)), "fake:echo", idempotent=idempotent)
    return Program(f"key of {name}", name, definition)


def result(text: str = "done", run_s: float = 0.0) -> Result:
    """What a call of `echo_program` ends with."""
    return Result(msgspec.Raw(msgspec.json.encode({"text": text})), run_s)


class FakePool:
    """A pool (see `pools.protocol.Pool`) without workers.

    Without `answer`, an accepted call is in `queued` until the test calls `dispatch`, and then in `running` until the
    test calls `finish`. With `answer`, each call is dispatched at once and ends as `answer(call)` says.
    """

    def __init__(self, version: str, answer: Callable[[Call], Answer] | None = None) -> None:
        self.version = version
        self.answer = answer
        self.queued: list[Call] = []
        self.running: list[Call] = []
        self.accepted: list[Call] = []
        """Every call ever accepted, in order; a call that comes twice is in it twice."""
        self.is_ready = True
        self.is_refusing = False
        self.is_closed = False
        self.dispatched = 0
        self._outcomes: dict[Call, asyncio.Future[Result]] = {}
        self._drained = asyncio.Event()
        self._drained.set()

    def __repr__(self) -> str:
        return f"<FakePool {self.version} queued={len(self.queued)} running={len(self.running)}>"

    # --- for the test

    def dispatch(self, call: Call) -> None:
        """Gives a queued call to a worker."""
        self.queued.remove(call)
        self.running.append(call)
        self.dispatched += 1
        call.dispatched_at = time.perf_counter()

    def finish(self, call: Call, outcome: Answer | Withdrawn) -> None:
        """Ends a queued or running call."""
        answer = self._outcomes[call]
        if not answer.done():
            if isinstance(outcome, Result):
                answer.set_result(outcome)
            else:
                answer.set_exception(outcome)

    # --- the protocol

    async def start(self) -> None:
        """Does nothing: there are no workers."""

    async def execute(self, call: Call) -> Result:
        if self.is_closed or (self.is_refusing and not call.is_accepted):
            raise PoolClosed
        call.is_accepted = True
        self.accepted.append(call)
        self.queued.append(call)
        self._outcomes[call] = asyncio.get_running_loop().create_future()
        self._drained.clear()
        try:
            if self.answer is not None:
                self.dispatch(call)
                self.finish(call, self.answer(call))
            return await self._outcomes[call]
        finally:
            self._forget(call)

    def withdraw(self, which: Callable[[Call], bool]) -> int:
        return self._withdraw(self.queued, which)

    def withdraw_running(self, which: Callable[[Call], bool]) -> int:
        return self._withdraw(self.running, which)

    async def snapshot(self) -> PoolSnapshot:
        return PoolSnapshot(
            version=self.version,
            size=1,
            busy=len(self.running),
            idle=int(self.is_ready and not self.running),
            starting=0,
            stopping=0,
            queue_depth=len(self.queued),
            utilization=float(bool(self.running)),
            dispatched_total=self.dispatched,
            worker_starts_total=1,
            worker_exits_total=dict.fromkeys(ExitCause, 0),
            service_time_s=0.0,
            cpu_seconds_total=0.0,
            workers=(),
        )

    def refuse(self) -> None:
        self.is_refusing = True

    @property
    def is_drained(self) -> bool:
        return not self._outcomes

    async def drain(self) -> None:
        await self._drained.wait()

    async def aclose(self) -> None:
        self.is_refusing = self.is_closed = True
        self.is_ready = False
        for call in list(self._outcomes):
            self.finish(call, PoolClosed(started=call in self.running))
        await self.drain()

    def _withdraw(self, calls: list[Call], which: Callable[[Call], bool]) -> int:
        withdrawn = [call for call in calls if which(call)]
        for call in withdrawn:
            self.finish(call, Withdrawn())
        return len(withdrawn)

    def _forget(self, call: Call) -> None:
        for calls in (self.queued, self.running):
            if call in calls:
                calls.remove(call)
        del self._outcomes[call]
        if not self._outcomes:
            self._drained.set()
