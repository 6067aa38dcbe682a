# Generated from poolshift/client/_async/client.py by `make client`: change that file, not this one.

"""The client for any number of threads."""

import ssl
from types import TracebackType

from poolshift.client import executions, failures, pools
from poolshift.client._sync.groups import (
    Group,
    Jobs,
    LMs,
    Migrations,
    Pools,
    Programs,
    Rollouts,
    Sessions,
    Shadows,
    sends,
    streams,
)
from poolshift.client._sync.transport import Transport
from poolshift.client.options import DEFAULT_RETRY, options
from poolshift.client.retries import Retry


class Client(Group):
    """Poolshift over HTTP, for any number of threads.

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
        self._use(Transport.open(chosen, verify=verify, max_connections=max_connections))

    def _use(self, transport: Transport) -> None:
        super().__init__(transport)
        self.programs = Programs(transport)
        self.jobs = Jobs(transport)
        self.sessions = Sessions(transport)
        self.lm = LMs(transport)
        self.rollout = Rollouts(transport)
        self.pools = Pools(transport)
        self.migration = Migrations(transport)
        self.shadow = Shadows(transport)

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._transport.options!r})"

    def close(self) -> None:
        """Closes all connections."""
        self._transport.close()

    def with_options(self, *, timeout_s: float | None = None, retry: Retry | None = None) -> "Client":
        """A client with other options on the same connections; to close either closes both."""
        other = Client.__new__(Client)
        other._use(self._transport.but(self._transport.options.but(timeout_s, retry)))
        return other
