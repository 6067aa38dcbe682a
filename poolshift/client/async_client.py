"""The client for asyncio."""

import asyncio
import ssl
from types import TracebackType
from typing import ClassVar, TypeVar

from poolshift.client import methods
from poolshift.client.async_transport import AsyncItems, AsyncStream, AsyncTransport
from poolshift.client.calls import Answer, Call, Listing
from poolshift.client.executions import Execution, Job
from poolshift.client.options import DEFAULT_RETRY, options
from poolshift.client.retries import Retry, Waiting

T = TypeVar("T")


class AsyncGroup:
    """Methods that share a transport."""

    shown: ClassVar = {"value": "Coroutine[Any, Any, {}]", "listed": "AsyncItems[{}]", "streamed": "AsyncStream"}
    """The answers in the signatures of methods, around the types in their descriptions."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def answer(self, call: Call[T]) -> Answer[T]:
        """Makes a call and returns its answer with headers and JSON."""
        return await self._transport.answer(call)

    async def value(self, call: Call[T]) -> T:
        """Makes a call and returns its answer."""
        return (await self.answer(call)).value

    def listed(self, listing: Listing[T]) -> AsyncItems[T]:
        """The items of a list, which the loop over them gets."""
        return AsyncItems(self._transport, listing)

    def streamed(self, call: Call[Execution]) -> AsyncStream:
        """The stream of a call, which the loop over its events opens."""
        return AsyncStream(self._transport, call)


class AsyncPrograms(AsyncGroup, methods.ProgramMethods):
    """Programs and their definitions."""


class AsyncJobs(AsyncGroup, methods.JobMethods):
    """Runs in the background."""

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


class AsyncSessions(AsyncGroup, methods.SessionMethods):
    """Sessions and what they hold."""


class AsyncLMs(AsyncGroup, methods.LMMethods):
    """The language model of a session, or everyone's."""


class AsyncRollouts(AsyncGroup, methods.RolloutMethods):
    """The flag, and the ramp that moves it."""


class AsyncPools(AsyncGroup, methods.PoolMethods):
    """The pools and their workers."""


class AsyncMigrations(AsyncGroup, methods.MigrationMethods):
    """The migration from V1 to V2."""


class AsyncShadows(AsyncGroup, methods.ShadowMethods):
    """Shadow calls, and what differs in them."""


class AsyncClient(AsyncGroup, methods.ClientMethods):
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
