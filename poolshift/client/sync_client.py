"""The client for threads."""

import ssl
import time
from types import TracebackType
from typing import ClassVar, TypeVar

from poolshift.client import methods
from poolshift.client.calls import Answer, Call, Listing
from poolshift.client.executions import Execution, Job
from poolshift.client.options import DEFAULT_RETRY, options
from poolshift.client.retries import Retry, Waiting
from poolshift.client.sync_transport import Items, Stream, SyncTransport

T = TypeVar("T")


class Group:
    """Methods that share a transport."""

    shown: ClassVar = {"value": "", "listed": "Items[{}]", "streamed": "Stream"}
    """The answers in the signatures of methods, around the types in their descriptions."""

    def __init__(self, transport: SyncTransport) -> None:
        self._transport = transport

    def answer(self, call: Call[T]) -> Answer[T]:
        """Makes a call and returns its answer with headers and JSON."""
        return self._transport.answer(call)

    def value(self, call: Call[T]) -> T:
        """Makes a call and returns its answer."""
        return self.answer(call).value

    def listed(self, listing: Listing[T]) -> Items[T]:
        """The items of a list, which the loop over them gets."""
        return Items(self._transport, listing)

    def streamed(self, call: Call[Execution]) -> Stream:
        """The stream of a call, which the loop over its events opens."""
        return Stream(self._transport, call)


class Programs(Group, methods.ProgramMethods):
    """Programs and their definitions."""


class Jobs(Group, methods.JobMethods):
    """Runs in the background."""

    def wait(self, job: Job | str, *, timeout_s: float | None = None) -> Execution:
        """Waits for a job, or the one with this id, and returns its execution. The client's timeout is for each look.

        Raises:
            JobNotOver: the job is not over after `timeout_s`, and goes on.
            PoolshiftError: the job has failed, as a call in the foreground would have; or it has been cancelled.
        """
        execution_id = job if isinstance(job, str) else job.execution_id
        waiting = Waiting(timeout_s)
        while not (seen := self.get(execution_id)).is_over:
            time.sleep(waiting.pause_s(seen))
        return seen.outcome()


class Sessions(Group, methods.SessionMethods):
    """Sessions and what they hold."""


class LMs(Group, methods.LMMethods):
    """The language model of a session, or everyone's."""


class Rollouts(Group, methods.RolloutMethods):
    """The flag, and the ramp that moves it."""


class Pools(Group, methods.PoolMethods):
    """The pools and their workers."""


class Migrations(Group, methods.MigrationMethods):
    """The migration from V1 to V2."""


class Shadows(Group, methods.ShadowMethods):
    """Shadow calls, and what differs in them."""


class Client(Group, methods.ClientMethods):
    """Poolshift over HTTP, for any number of threads.

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
        self._use(SyncTransport.open(chosen, verify=verify, max_connections=max_connections))

    def _use(self, transport: SyncTransport) -> None:
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
        return f"Client({self._transport.options!r})"

    def close(self) -> None:
        """Closes all connections."""
        self._transport.close()

    def with_options(self, *, timeout_s: float | None = None, retry: Retry | None = None) -> "Client":
        """A client with other options on the same connections; to close either closes both."""
        other = Client.__new__(Client)
        other._use(self._transport.but(self._transport.options.but(timeout_s, retry)))
        return other
