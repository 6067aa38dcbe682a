"""Long runs: executions that nobody waits for. They run here, and what is known of them is in the store for a while."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Protocol

import structlog

from common.tasks import TaskOwner
from pools.calls import Call, Result
from pools.errors import InvalidOutputs, PoolClosed, PoolOverloaded, ProgramError
from routing.errors import ExecutionNotFound, StoreUnavailable
from routing.route import Route
from routing.versions import Version

MAX_RESULT_BYTES = 1024 * 1024
"""Of a larger result or problem only the error is kept that it was too large."""
STALE_AFTER_S = 30.0
"""A replica that has not said for so long that it is at an execution has died."""
CLOSE_TIMEOUT_S = 10.0
"""How long the end of the service waits for the last executions, which end with the pools."""

_log = structlog.stdlib.get_logger("poolshift.executions")


class ExecutionStatus(StrEnum):
    """How far a long run has come. `interrupted` is one that the service, not its program, has ended."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen to it."""
        return self not in (ExecutionStatus.QUEUED, ExecutionStatus.RUNNING)


@dataclass(frozen=True, slots=True)
class Execution:
    """A long run. `body` is what a synchronous call would have been answered with: its result, or its problem.

    `key` counts up with the executions of all replicas; the store gives it.
    """

    id: str
    program_id: str
    session_id: str | None
    status: ExecutionStatus
    created_at: datetime
    key: int = 0
    pool_version: Version | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    body: bytes | None = None


class ExecutionStore(Protocol):
    """Where executions are kept. Every method raises StoreUnavailable where the store does not answer."""

    async def add(self, execution: Execution) -> Execution:
        """Keeps a new execution, and gives it its key."""
        ...

    async def update(self, execution: Execution) -> None:
        """Writes how far an execution has come, unless it was forgotten meanwhile."""
        ...

    async def find(self, execution_id: str) -> Execution | None:
        """One execution."""
        ...

    async def page(self, session_id: str | None, *, limit: int, before: int | None) -> Sequence[Execution]:
        """Up to `limit` of a session's executions, or of those of none, newest first, with keys under `before`.

        Bodies are left out.
        """
        ...

    async def ask_to_cancel(self, execution_id: str) -> None:
        """Tells the replica that runs it, whichever that is."""
        ...

    async def alive(self, execution_ids: Collection[str]) -> Mapping[str, bool]:
        """Notes that these are still being run; those that are still kept, and whether each is to be cancelled."""
        ...

    async def interrupt(self, silent_since: datetime | None) -> int:
        """Marks as interrupted what nobody was at since then, or (None) what anybody was ever at; how many."""
        ...

    async def forget(self, ended_before: datetime) -> None:
        """Forgets what has ended before."""
        ...


@dataclass(slots=True, eq=False)
class _Live:
    """An execution that this replica runs, or has still to write down the end of."""

    execution: Execution
    call: Call
    route: Route
    run: asyncio.Task[tuple[ExecutionStatus, bytes]]
    is_cancelled: bool = False

    def look(self) -> Execution:
        """The execution at this moment."""
        if not self.execution.status.is_over and self.call.dispatched_at > 0 and self.execution.started_at is None:
            started_at = self.execution.created_at + timedelta(seconds=self.call.queued_s)
            self.execution = replace(self.execution, status=ExecutionStatus.RUNNING, started_at=started_at)
        return replace(self.execution, pool_version=self.route.decision.version)

    def end(self) -> Execution:
        """The execution, whose run has ended."""
        if not self.run.cancelled():
            status, body = self.run.result()
        else:
            status, body = ExecutionStatus.CANCELLED if self.is_cancelled else ExecutionStatus.INTERRUPTED, None
        self.execution = replace(self.look(), status=status, body=body, ended_at=datetime.now(UTC))
        return self.execution


class Executions:
    """Runs what is handed over, and answers for it until `ttl_s` after its end."""

    def __init__(self, store: ExecutionStore, *, limit: int, ttl_s: float) -> None:
        """At most `limit` executions are queued or running here."""
        self._store = store
        self._limit = limit
        self.ttl_s = ttl_s
        self._live: dict[str, _Live] = {}
        self._adding = 0
        self._refuses = False
        self._tasks = TaskOwner("executions")

    async def open(self, *, is_shared: bool) -> None:
        """What a run before this one left unfinished is interrupted.

        Where other replicas share the store, what is running may be theirs: `sweep` tells by their silence.
        """
        if not is_shared and (count := await self._store.interrupt(None)):
            _log.warning("executions were interrupted by the end of the last run", count=count)

    def refuse(self) -> None:
        """From now on new executions raise PoolClosed; those that were accepted go on."""
        self._refuses = True

    async def aclose(self) -> None:
        """Writes down how the last ones ended. To be called when the pools are closed."""
        self.refuse()
        if self._live:
            await asyncio.wait([live.run for live in self._live.values()], timeout=CLOSE_TIMEOUT_S)
        try:
            await self._save_the_ended()
        except StoreUnavailable as error:
            _log.error("how executions ended is lost", count=len(self._live), reason=str(error))
        await self._tasks.aclose()

    # --- one execution

    async def start(
        self,
        route: Route,
        call: Call,
        run: Callable[[], Awaitable[Result]],
        answer: Callable[[Result], bytes],
        refuse: Callable[[Exception], bytes],
    ) -> Execution:
        """Runs `call` behind the caller's back, who may ask for it by its execution's id.

        Args:
            run: brings the call to its result.
            answer: what a synchronous caller would get for the result.
            refuse: the same for an error.

        Raises:
            PoolClosed: the service is ending.
            PoolOverloaded: too many are queued or running.
            StoreUnavailable: it could not be remembered, and does not run.
        """
        if self._refuses:
            raise PoolClosed
        if len(self._live) + self._adding >= self._limit:
            raise PoolOverloaded(f"{self._limit} executions are queued or running", retry_after_s=1.0)
        execution = Execution(
            call.execution_id, call.program.id, call.session_id, ExecutionStatus.QUEUED, datetime.now(UTC)
        )
        self._adding += 1
        try:
            execution = await self._store.add(execution)
        finally:
            self._adding -= 1
        live = _Live(execution, call, route, self._tasks.start(_judged(run, answer, refuse)))
        self._live[execution.id] = live
        self._tasks.start(self._follow(live))
        return live.look()

    async def show(self, execution_id: str) -> Execution:
        """One execution. Raises ExecutionNotFound, StoreUnavailable."""
        live = self._live.get(execution_id)
        execution = live.look() if live is not None else await self._store.find(execution_id)
        if execution is None:
            raise ExecutionNotFound(execution_id)
        return execution

    async def page(self, session_id: str | None, *, limit: int, before: int | None) -> Sequence[Execution]:
        """As `ExecutionStore.page`."""
        found = await self._store.page(session_id, limit=limit, before=before)
        return [self._live[one.id].look() if one.id in self._live else one for one in found]

    async def cancel(self, execution_id: str) -> Execution:
        """Ends an execution, its program too, unless it is over; on another replica it takes a moment.

        Raises:
            ExecutionNotFound, StoreUnavailable.
        """
        live = self._live.get(execution_id)
        if live is None:
            execution = await self.show(execution_id)
            if not execution.status.is_over:
                await self._store.ask_to_cancel(execution_id)
            return execution
        self._cancel(live)
        await asyncio.wait({live.run})
        return live.end() if not live.execution.status.is_over else live.look()

    def end_session(self, session_id: str) -> None:
        """A session has ended: the store has forgotten its executions, and they end."""
        for live in [one for one in self._live.values() if one.execution.session_id == session_id]:
            self._cancel(live)

    def _cancel(self, live: _Live) -> None:
        live.is_cancelled = True
        live.run.cancel()

    async def _follow(self, live: _Live) -> None:
        await asyncio.wait({live.run})
        try:
            await self._save(live)
        except StoreUnavailable as error:
            _log.warning("an execution's end is kept in memory", execution_id=live.execution.id, reason=str(error))

    async def _save(self, live: _Live) -> None:
        await self._store.update(live.look() if live.execution.status.is_over else live.end())
        self._live.pop(live.execution.id, None)

    # --- all of them

    async def keep(self) -> None:
        """What is to be done every second or so for those that run here. Raises StoreUnavailable."""
        await self._save_the_ended()
        await self._say_that_they_live()

    async def sweep(self) -> None:
        """What is to be done now and then for all there are, here or elsewhere. Raises StoreUnavailable."""
        now = datetime.now(UTC)
        await self._store.interrupt(now - timedelta(seconds=STALE_AFTER_S))
        await self._store.forget(now - timedelta(seconds=self.ttl_s))

    async def _save_the_ended(self) -> None:
        for live in [one for one in self._live.values() if one.run.done()]:
            await self._save(live)

    async def _say_that_they_live(self) -> None:
        running = [one for one in self._live.values() if not one.run.done()]
        for live in running:
            was = live.execution.status
            if live.look().status is not was:
                await self._store.update(live.look())
        if running:
            kept = await self._store.alive([live.execution.id for live in running])
            for live in running:
                if kept.get(live.execution.id, True):  # to be cancelled, or forgotten: its session has ended elsewhere
                    self._cancel(live)


async def _judged(
    run: Callable[[], Awaitable[Result]], answer: Callable[[Result], bytes], refuse: Callable[[Exception], bytes]
) -> tuple[ExecutionStatus, bytes]:
    try:
        status, body = ExecutionStatus.SUCCEEDED, answer(await run())
    except PoolClosed as error:
        status, body = ExecutionStatus.INTERRUPTED, refuse(error)
    except Exception as error:
        status, body = ExecutionStatus.FAILED, refuse(error)
    if len(body) <= MAX_RESULT_BYTES:
        return status, body
    limit = f"of {len(body)} bytes is over the limit of {MAX_RESULT_BYTES} for a long run"
    if status is ExecutionStatus.SUCCEEDED:
        return ExecutionStatus.FAILED, refuse(InvalidOutputs(f"a result {limit}"))
    return status, refuse(ProgramError(f"an error {limit}"))
