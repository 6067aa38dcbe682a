"""The client for asyncio."""

import ssl
from types import TracebackType

from poolshift.client import executions, failures, pools
from poolshift.client._async.groups import (
    AsyncGroup,
    AsyncJobs,
    AsyncLMs,
    AsyncMigrations,
    AsyncPools,
    AsyncPrograms,
    AsyncRollouts,
    AsyncSessions,
    AsyncShadows,
    sends,
    streams,
)
from poolshift.client._async.transport import AsyncTransport
from poolshift.client.options import DEFAULT_RETRY, options
from poolshift.client.retries import Retry


class AsyncClient(AsyncGroup):
    """Poolshift over HTTP, for asyncio.

    `url` and `api_key` come from `POOLSHIFT_URL` and `POOLSHIFT_API_KEY` unless they are given. `timeout_s` is the time
    for a whole call, with all attempts and pauses. `verify` is as httpx has it, for certificates of your own.

    Raises:
        ValueError: the address, the key or a number makes no sense.
    """

    execute = sends(executions.execute)
    stream = streams(executions.stream)
    batch = sends(executions.batch)
    failures = sends(failures.newest)
    health = sends(pools.health)
    readiness = sends(pools.readiness)
    metrics = sends(pools.metrics)

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
        return f"{type(self).__name__}({self._transport.options!r})"

    async def aclose(self) -> None:
        """Closes all connections."""
        await self._transport.aclose()

    def with_options(self, *, timeout_s: float | None = None, retry: Retry | None = None) -> "AsyncClient":
        """A client with other options on the same connections; to close either closes both."""
        other = AsyncClient.__new__(AsyncClient)
        other._use(self._transport.but(self._transport.options.but(timeout_s, retry)))
        return other
