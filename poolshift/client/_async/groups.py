"""The methods of the client for asyncio, each made from the function that describes its call."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, TypeVar

from poolshift.client import executions, migration, pools, programs, ramp, rollout, sessions, shadow
from poolshift.client._async.transport import AsyncItems, AsyncStream, AsyncTransport
from poolshift.client.calls import Answer, Call, Listing
from poolshift.client.executions import Execution, Job
from poolshift.client.methods import documented, name_methods
from poolshift.client.retries import Waiting

P = ParamSpec("P")
T = TypeVar("T")


class AsyncGroup:
    """Methods that share a transport."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    def __init_subclass__(cls) -> None:
        name_methods(cls)

    async def answer(self, call: Call[T]) -> Answer[T]:
        """Makes a call and returns its answer with headers and JSON."""
        return await self._transport.answer(call)

    async def value(self, call: Call[T]) -> T:
        """Makes a call and returns its answer."""
        answer = await self.answer(call)
        return answer.value

    def listed(self, listing: Listing[T]) -> AsyncItems[T]:
        """The items of a list, which the loop over them gets."""
        return AsyncItems(self._transport, listing)

    def streamed(self, call: Call[Execution]) -> AsyncStream:
        """The stream of a call, which the loop over its events opens."""
        return AsyncStream(self._transport, call)


def sends(describe: Callable[P, Call[T]]) -> Callable[Concatenate[AsyncGroup, P], Coroutine[Any, Any, T]]:
    """Makes a method that makes the described call and returns its answer."""

    async def method(self: AsyncGroup, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.value(describe(*args, **kwargs))

    return documented(method, describe)


def lists(describe: Callable[P, Listing[T]]) -> Callable[Concatenate[AsyncGroup, P], AsyncItems[T]]:
    """Makes a method that lists the described items, a page at a time."""

    def method(self: AsyncGroup, /, *args: P.args, **kwargs: P.kwargs) -> AsyncItems[T]:
        return self.listed(describe(*args, **kwargs))

    return documented(method, describe)


def streams(describe: Callable[P, Call[Execution]]) -> Callable[Concatenate[AsyncGroup, P], AsyncStream]:
    """Makes a method that opens the described stream of events."""

    def method(self: AsyncGroup, /, *args: P.args, **kwargs: P.kwargs) -> AsyncStream:
        return self.streamed(describe(*args, **kwargs))

    return documented(method, describe)


class AsyncPrograms(AsyncGroup):
    """Programs and their definitions."""

    create = sends(programs.create)
    put = sends(programs.put)
    apply = sends(programs.apply)
    promote = sends(programs.promote)
    demote = sends(programs.demote)
    restore = sends(programs.restore)
    deletions = lists(programs.deletions)
    get = sends(programs.show)
    list = lists(programs.listed)
    delete = sends(programs.delete)
    revisions = lists(programs.revisions)


class AsyncJobs(AsyncGroup):
    """Runs in the background."""

    submit = sends(executions.submit)
    get = sends(executions.show)
    list = lists(executions.listed)
    cancel = sends(executions.cancel)
    events = streams(executions.events)

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

    get = sends(sessions.show)
    list = lists(sessions.listed)
    end = sends(sessions.end)


class AsyncLMs(AsyncGroup):
    """The language model of a session, or everyone's."""

    get = sends(sessions.show_lm)
    set = sends(sessions.set_lm)
    remove = sends(sessions.remove_lm)
    restore = sends(sessions.restore_lm)


class AsyncRollouts(AsyncGroup):
    """The flag, and the ramp that moves it."""

    get = sends(rollout.show)
    change = sends(rollout.change)
    roll_back = sends(rollout.roll_back)
    rotate = sends(rollout.rotate)
    unrotate = sends(rollout.unrotate)
    history = lists(rollout.history)
    plan = sends(ramp.show_plan)
    set_plan = sends(ramp.set_plan)
    clear_plan = sends(ramp.clear_plan)
    start = sends(ramp.start)
    pause = sends(ramp.pause)
    resume = sends(ramp.resume)
    approve = sends(ramp.approve)
    promote = sends(ramp.promote)
    abort = sends(ramp.abort)
    status = sends(ramp.status)
    analysis = sends(ramp.analysis)
    decisions = lists(ramp.decisions)
    trace = sends(ramp.trace)


class AsyncPools(AsyncGroup):
    """The pools and their workers."""

    get = sends(pools.show)
    list = sends(pools.listed)
    reload = sends(pools.reload)
    reload_all = sends(pools.reload_all)
    diff = sends(pools.diff)


class AsyncMigrations(AsyncGroup):
    """The migration from V1 to V2."""

    get = sends(migration.show)
    report = sends(migration.report)
    add_validation = sends(migration.add_validation)
    tick = sends(migration.tick)
    untick = sends(migration.untick)


class AsyncShadows(AsyncGroup):
    """Shadow calls, and what differs in them."""

    get = sends(shadow.show)
    get_program = sends(shadow.show_program)
    compare = sends(shadow.compare)
