"""The order in which the live judge counts calls, on a router whose pools have no workers."""

import asyncio
import random
import time
from collections.abc import Callable

import pytest
from prometheus_client import CollectorRegistry

from analysis.guardrails import Config
from analysis.verdict import Say
from pools.calls import Call
from routing.rollout.flag import open_flag
from routing.rollout.live_judge import LiveJudge
from routing.router import Router
from routing.telemetry.recorder import Recorder
from routing.versions import Version
from tests.support.fake_pools import FakePool, echo_program, result
from tests.support.rollout import MemoryLog

pytestmark = pytest.mark.anyio

V1, V2 = Version.V1, Version.V2
PERCENT = 10
MANY = 2000
"""Calls that convict V2 if all of them are V1's."""


class Ramp:
    """A router at 10 %, whose judge looks when the test says so."""

    def __init__(self, router: Router, judge: LiveJudge, pools: dict[Version, FakePool]) -> None:
        self.judge = judge
        self.pools = pools
        self._router = router
        self._tasks: list[asyncio.Task[object]] = []
        self._sent: dict[Call, float] = {}

    async def send(self, calls: int, then: Callable[[FakePool, Call], None]) -> None:
        """Routes calls, and hands each to `then` with the pool that has it."""
        for number in range(calls):
            call = Call(f"e-{number}", echo_program(), b"{}", asyncio.get_running_loop().time() + 60)
            self._sent[call] = time.perf_counter()
            route = self._router.route(None)
            self._tasks.append(asyncio.ensure_future(self._router.execute(route, call)))
            await asyncio.sleep(0)
            then(self.pools[route.decision.version], call)
            await asyncio.sleep(0)

    async def end(self) -> None:
        """Ends all calls that a pool still has; all of their time was a wait."""
        for pool in self.pools.values():
            for call in [*pool.queued, *pool.running]:
                if call in pool.queued:
                    pool.dispatch(call)
                call.is_loading = False
                call.queued_s = time.perf_counter() - self._sent[call]
                pool.finish(call, result("ok"))
        await asyncio.gather(*self._tasks)

    async def leave(self) -> None:
        """Cancels all calls that have not ended."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def counted(self) -> tuple[int, int]:
        """Calls of V1 and V2 that have counted."""
        return self.judge.counted()


def answer(pool: FakePool, call: Call) -> None:
    """Runs a call to its end."""
    pool.dispatch(call)
    pool.finish(call, result("ok"))


def answer_v1(pool: FakePool, call: Call) -> None:
    """Runs a call of V1's; one of V2's waits for a worker."""
    if pool.version == V1:
        answer(pool, call)


def answer_v1_and_load_v2(pool: FakePool, call: Call) -> None:
    """Runs a call of V1's; for one of V2's a worker loads the program."""
    if pool.version == V1:
        answer(pool, call)
    else:
        pool.dispatch(call)
        call.is_loading = True


@pytest.fixture
async def ramp() -> Ramp:
    random.seed(4711)  # deals the versions
    flag = await open_flag(MemoryLog(), PERCENT * 100)
    pools = {version: FakePool(version) for version in (V1, V2)}
    judge = LiveJudge(Config())
    judge.latency_floor_ms = 1e6  # drowns the differences between real times
    judge.percent_changed(PERCENT * 100)
    recorder = Recorder(CollectorRegistry(), {})
    return Ramp(Router(pools, flag, recorder, judge=judge, pin=None, salt="test"), judge, pools)


@pytest.mark.parametrize("then", [answer_v1, answer_v1_and_load_v2])
async def test_calls_that_wait_for_a_worker_are_not_slow(ramp: Ramp, then: Callable[[FakePool, Call], None]) -> None:
    """V2's first calls wait while its workers start or load the program: V1's calls of that time count after them."""
    await ramp.send(200, answer)
    await ramp.send(MANY, then)
    assert ramp.judge.look().action is Say.CONTINUE
    assert sum(ramp.counted()) < 300
    await ramp.end()
    assert ramp.judge.look().action is Say.CONTINUE
    assert sum(ramp.counted()) == 200 + MANY


async def test_calls_that_run_hold_back_nothing(ramp: Ramp) -> None:
    """A version whose calls do not end is slow."""
    await ramp.send(200, answer)
    await ramp.send(MANY, lambda pool, call: answer(pool, call) if pool.version == V1 else pool.dispatch(call))
    verdict = ramp.judge.look()
    assert (verdict.action, verdict.guardrail) == (Say.ROLLBACK, "latency")
    await ramp.end()


async def test_v1s_calls_are_no_evidence_while_v2_is_down(ramp: Ramp) -> None:
    """V2's share goes to V1 then, so that V1 has all calls; those that waited for V2 still count as assigned to V2."""
    await ramp.send(200, answer)
    await ramp.send(50, answer_v1)
    waiting = len(ramp.pools[V2].queued)
    before = ramp.counted()
    ramp.pools[V2].go_down()
    await asyncio.sleep(0)
    await ramp.end()
    after = ramp.counted()
    assert sum(after) == 250
    assert after[1] - before[1] == waiting
    await ramp.send(MANY, answer)
    assert ramp.judge.look().action is Say.CONTINUE
    assert ramp.counted() == after


async def test_a_call_whose_client_has_gone_holds_back_nothing(ramp: Ramp) -> None:
    """One that has waited for a worker of V2 is no evidence."""
    await ramp.send(200, answer)
    await ramp.send(200, answer_v1)
    waiting = len(ramp.pools[V2].queued)
    assert waiting
    assert sum(ramp.counted()) < 400 - waiting
    await ramp.leave()
    ramp.judge.look()
    assert sum(ramp.counted()) == 400 - waiting
