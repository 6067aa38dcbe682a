"""Pools on fake workers: a whole engine, without a process and without waiting."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass

from common.background import Background
from pools.async_pool import AsyncPool
from pools.calls import Call, Program, Result
from pools.engine import Engine, PoolOptions
from pools.errors import ExecutionError, Withdrawn
from pools.events import EventSink
from pools.session_pool import SessionPool
from pools.session_pool_v2 import SessionPoolV2
from pools.supervisor import RecycleLimits
from pools.warming import WarmOptions
from tests.support.fake_pools import FakeObserver, FakeProcess, FakeSpawner, echo_program
from tests.support.pools import executed
from tests.support.waiting import wait_until_async

ENGINES: tuple[type[Engine], ...] = (SessionPool, SessionPoolV2, AsyncPool)
ECHO = echo_program()


@dataclass(slots=True)
class Bench:
    """An engine on fake workers, and what a test asks of it."""

    engine: Engine
    spawner: FakeSpawner
    observer: FakeObserver
    numbers: int = 0

    def call(
        self,
        program: Program = ECHO,
        *,
        seconds: float = 60.0,
        session_id: str | None = None,
        events: EventSink | None = None,
    ) -> Call:
        """A call with a deadline in so many seconds."""
        self.numbers += 1
        deadline = asyncio.get_running_loop().time() + seconds
        call = Call(f"e-{self.numbers}", program, b"{}", deadline, session_id)
        call.events = events
        return call

    async def begin(self, call: Call) -> "asyncio.Task[Result]":
        """Starts the call, which is with a worker, in the queue, or ended afterwards."""
        task = asyncio.ensure_future(executed(self.engine, call))
        await turns()
        return task

    def busy(self) -> list[FakeProcess]:
        """The workers that are at a call."""
        return [process for process in self.spawner.living if process.call is not None]

    def loading(self) -> list[FakeProcess]:
        """The workers that load a program."""
        return [process for process in self.spawner.living if process.loading is not None]

    def worker_of(self, call: Call) -> FakeProcess:
        """The worker that is at `call`."""
        (process,) = [process for process in self.busy() if process.call is call]
        return process


@asynccontextmanager
async def bench(
    engine: type[Engine],
    size: int = 2,
    *,
    queue_limit: int = 1000,
    checkout_timeout_s: float = 60.0,
    recycle: RecycleLimits | None = None,
    load_timeout_s: float = 60.0,
    cold_for: Collection[Program] = (),
    warm: WarmOptions | None = None,
) -> AsyncIterator[Bench]:
    """A pool whose workers are all idle; closed at the end, with nothing left of it.

    Workers lack the programs of `cold_for`. With `warm` they are started, and the test warms them.
    """
    spawner, observer, background = FakeSpawner(), FakeObserver(), Background()
    spawner.cold_for = {program.definition for program in cold_for}
    recycle, is_warmed, warm = recycle or RecycleLimits(), warm is not None, warm or WarmOptions()
    options = PoolOptions(size, queue_limit, checkout_timeout_s, recycle, load_timeout_s, warm)
    pool = engine("v1", options, spawner, observer, background)
    starting = asyncio.ensure_future(pool.start())
    if not is_warmed:
        await starting
    await turns()
    try:
        yield Bench(pool, spawner, observer)
    finally:
        spawner.let_go()
        for process in spawner.living:
            process.hangs = False
        await asyncio.wait_for(pool.aclose(), 10)
        starting.cancel()
        await background.aclose()
    assert not spawner.living
    assert not pool._state.slots


async def turns(count: int = 10) -> None:
    """Lets the event loop do what is due now."""
    for _ in range(count):
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    """Lets the event loop run until `condition` holds."""

    async def holds() -> bool:
        return condition()

    await wait_until_async(holds, "the condition holds", deadline_s=10)


async def error_of(task: "asyncio.Task[Result]") -> ExecutionError | Withdrawn:
    """The error that a call has ended with."""
    try:
        ended = await asyncio.wait_for(task, 10)
    except (ExecutionError, Withdrawn) as error:
        return error
    raise AssertionError(f"ended well: {bytes(ended.outputs)!r}")
