"""The fake pool keeps the promises of the protocol that the router relies on."""

import asyncio
from collections.abc import Callable

import pytest

from pools.calls import Call, Result
from pools.errors import PoolClosed, ProgramError, Withdrawn
from pools.protocol import Pool
from tests.support.fake_pools import FakePool, echo_program, result
from tests.support.pools import executed

pytestmark = pytest.mark.anyio


def call(execution_id: str = "e-1") -> Call:
    return Call(execution_id, echo_program(), b"{}", deadline=asyncio.get_running_loop().time() + 60)


async def started(pool: Pool, one: Call) -> asyncio.Task[Result]:
    task = asyncio.ensure_future(executed(pool, one))
    await asyncio.sleep(0)
    return task


async def test_a_call_waits_runs_and_ends_when_the_test_says_so() -> None:
    """Each step is seen in the pool and in the call."""
    pool, one = FakePool("v1"), call()
    task = await started(pool, one)
    assert (pool.queued, pool.running, pool.is_drained) == ([one], [], False)
    pool.dispatch(one)
    assert (pool.queued, pool.running) == ([], [one])
    assert one.dispatched_at > 0
    pool.finish(one, result("hello"))
    assert bytes((await task).outputs) == b'{"text":"hello"}'
    assert (pool.running, pool.is_drained) == ([], True)


@pytest.mark.parametrize(("withdraw", "is_dispatched"), [(FakePool.withdraw, False), (FakePool.withdraw_running, True)])
async def test_calls_are_taken_back(
    withdraw: Callable[[FakePool, Callable[[Call], bool]], int], *, is_dispatched: bool
) -> None:
    """Only those that are named, and only queued or only running ones."""
    pool, queued, running = FakePool("v2"), call("queued"), call("running")
    tasks = {one: await started(pool, one) for one in (queued, running)}
    pool.dispatch(running)
    assert withdraw(pool, lambda _: False) == 0
    assert withdraw(pool, lambda _: True) == 1
    taken, left = (running, queued) if is_dispatched else (queued, running)
    with pytest.raises(Withdrawn):
        await tasks[taken]
    assert not tasks[left].done()
    pool.finish(left, ProgramError("boom"))
    with pytest.raises(ProgramError):
        await tasks[left]


async def test_a_pool_that_refuses_takes_accepted_calls_alone() -> None:
    """Until it is closed, which ends those that are left."""
    pool, moved = FakePool("v1"), call("moved")
    moved.is_accepted = True
    pool.refuse()
    with pytest.raises(PoolClosed):
        await executed(pool, call("new"))
    task = await started(pool, moved)
    await pool.aclose()
    with pytest.raises(PoolClosed):
        await task
    with pytest.raises(PoolClosed):
        await executed(pool, moved)


async def test_a_pool_answers_by_itself() -> None:
    """As the test's function says, call by call."""
    pool = FakePool("v1", answer=lambda one: result(one.execution_id))
    assert bytes((await executed(pool, call("e-7"))).outputs) == b'{"text":"e-7"}'
    assert (pool.dispatched, pool.is_drained) == (1, True)
