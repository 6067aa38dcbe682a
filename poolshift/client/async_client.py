"""The client for asyncio."""

import asyncio
import ssl
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from poolshift.client import executions, failures, migration, pools, programs, ramp, rollout, sessions, shadow
from poolshift.client.async_transport import AsyncItems, AsyncStream, AsyncTransport
from poolshift.client.binding import Method
from poolshift.client.calls import Answer, Call, Listing
from poolshift.client.executions import Execution, Job
from poolshift.client.options import DEFAULT_RETRY, options
from poolshift.client.retries import Retry, Waiting

P = ParamSpec("P")
T = TypeVar("T")


class AsyncGroup:
    """Methods that share a transport."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def answer(self, call: Call[T]) -> Answer[T]:
        """Makes a call and returns its answer with headers and JSON."""
        return await self._transport.answer(call)

    def listed(self, listing: Listing[T]) -> AsyncItems[T]:
        """The items of a list, which the loop over them gets."""
        return AsyncItems(self._transport, listing)

    def streamed(self, call: Call[Execution]) -> AsyncStream:
        """The stream of a call, which the loop over its events opens."""
        return AsyncStream(self._transport, call)


class _Sends(Method[P, Call[T]]):
    answers = "Coroutine[Any, Any, {}]"

    def __get__(self, group: AsyncGroup, _: Any = None) -> Callable[P, Coroutine[Any, Any, T]]:
        async def run(*args: P.args, **kwargs: P.kwargs) -> T:
            return (await group.answer(self.describe(*args, **kwargs))).value

        return self.dressed(run)


class _Lists(Method[P, Listing[T]]):
    answers = "AsyncItems[{}]"

    def __get__(self, group: AsyncGroup, _: Any = None) -> Callable[P, AsyncItems[T]]:
        return self.dressed(lambda *args, **kwargs: group.listed(self.describe(*args, **kwargs)))


class _Streams(Method[P, Call[Execution]]):
    answers = "AsyncStream"

    def __get__(self, group: AsyncGroup, _: Any = None) -> Callable[P, AsyncStream]:
        return self.dressed(lambda *args, **kwargs: group.streamed(self.describe(*args, **kwargs)))


class AsyncPrograms(AsyncGroup):
    """Programs and their definitions."""

    create = _Sends(programs.create)
    put = _Sends(programs.put)
    promote = _Sends(programs.promote)
    get = _Sends(programs.show)
    list = _Lists(programs.listed)
    delete = _Sends(programs.delete)
    revisions = _Lists(programs.revisions)


class AsyncJobs(AsyncGroup):
    """Runs in the background."""

    submit = _Sends(executions.submit)
    get = _Sends(executions.show)
    list = _Lists(executions.listed)
    cancel = _Sends(executions.cancel)
    events = _Streams(executions.events)

    async def wait(self, job: Job | str, *, timeout_s: float | None = None) -> Execution:
        """Waits for a job, or the one with this id, and returns its execution. The client's timeout is for each look.

        Raises:
            JobNotOver: the job is not over after `timeout_s`, and goes on.
            PoolshiftError: the job has failed, as a call in the foreground would have; or it has been cancelled.
        """
        execution_id = job if isinstance(job, str) else job.execution_id
        waiting = Waiting(timeout_s)
        while not (seen := await self.get(execution_id)).is_over:  # noqa: ASYNC110 - the job is in another process
            await asyncio.sleep(waiting.pause_s(seen))
        return seen.outcome()


class AsyncSessions(AsyncGroup):
    """Sessions and what they hold."""

    get = _Sends(sessions.show)
    list = _Lists(sessions.listed)
    end = _Sends(sessions.end)


class AsyncLMs(AsyncGroup):
    """The language model of a session, or everyone's."""

    get = _Sends(sessions.show_lm)
    set = _Sends(sessions.set_lm)
    remove = _Sends(sessions.remove_lm)


class AsyncRollouts(AsyncGroup):
    """The flag, and the ramp that moves it."""

    get = _Sends(rollout.show)
    change = _Sends(rollout.change)
    roll_back = _Sends(rollout.roll_back)
    rotate = _Sends(rollout.rotate)
    history = _Lists(rollout.history)
    plan = _Sends(ramp.show_plan)
    set_plan = _Sends(ramp.set_plan)
    clear_plan = _Sends(ramp.clear_plan)
    start = _Sends(ramp.start)
    pause = _Sends(ramp.pause)
    resume = _Sends(ramp.resume)
    approve = _Sends(ramp.approve)
    promote = _Sends(ramp.promote)
    abort = _Sends(ramp.abort)
    status = _Sends(ramp.status)
    analysis = _Sends(ramp.analysis)
    decisions = _Lists(ramp.decisions)
    trace = _Sends(ramp.trace)


class AsyncPools(AsyncGroup):
    """The pools and their workers."""

    get = _Sends(pools.show)
    list = _Sends(pools.listed)
    reload = _Sends(pools.reload)
    diff = _Sends(pools.diff)


class AsyncMigrations(AsyncGroup):
    """The migration from V1 to V2."""

    get = _Sends(migration.show)
    report = _Sends(migration.report)
    add_validation = _Sends(migration.add_validation)
    tick = _Sends(migration.tick)
    untick = _Sends(migration.untick)


class AsyncShadows(AsyncGroup):
    """Shadow calls, and what differs in them."""

    get = _Sends(shadow.show)
    get_program = _Sends(shadow.show_program)
    compare = _Sends(shadow.compare)


class AsyncClient(AsyncGroup):
    """Poolshift over HTTP, for asyncio.

    `url` and `api_key` come from `POOLSHIFT_URL` and `POOLSHIFT_API_KEY` unless they are given. `timeout_s` is the time
    for a whole call, with all attempts and pauses. `verify` is as httpx has it, for certificates of your own.

    Raises:
        ValueError: the address, the key or a number makes no sense.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        timeout_s: float = 60.0,
        connect_timeout_s: float = 5.0,
        retry: Retry = DEFAULT_RETRY,
        max_connections: int = 100,
        verify: ssl.SSLContext | bool = True,
    ) -> None:
        chosen = options(url, api_key, timeout_s=timeout_s, connect_timeout_s=connect_timeout_s, retry=retry)
        self._use(AsyncTransport.open(chosen, verify=verify, max_connections=max_connections))

    def _use(self, transport: AsyncTransport) -> None:
        super().__init__(transport)
        self.programs = AsyncPrograms(transport)
        self.jobs = AsyncJobs(transport)
        self.sessions = AsyncSessions(transport)
        self.lm = AsyncLMs(transport)
        self.rollout = AsyncRollouts(transport)
        self.pools = AsyncPools(transport)
        self.migration = AsyncMigrations(transport)
        self.shadow = AsyncShadows(transport)

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"AsyncClient({self._transport.options!r})"

    async def aclose(self) -> None:
        """Closes all connections."""
        await self._transport.aclose()

    def with_options(self, *, timeout_s: float | None = None, retry: Retry | None = None) -> "AsyncClient":
        """A client with other options on the same connections; to close either closes both."""
        other = AsyncClient.__new__(AsyncClient)
        other._use(self._transport.but(self._transport.options.but(timeout_s, retry)))
        return other

    execute = _Sends(executions.execute)
    stream = _Streams(executions.stream)
    batch = _Sends(executions.batch)
    failures = _Sends(failures.newest)
    health = _Sends(pools.health)
    readiness = _Sends(pools.readiness)
    metrics = _Sends(pools.metrics)
