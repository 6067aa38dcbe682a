"""The router on pools without workers: which version a call goes to, and what becomes of it when that changes."""

import asyncio
import itertools
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from analysis.guardrails import Config
from pools.calls import Call, Result
from pools.errors import PoolClosed, ProgramError, Withdrawn, WorkerCrashed
from routing.rollout.flag import RolloutFlag, open_flag
from routing.rollout.live_judge import LiveJudge
from routing.rollout.model import Change, Source
from routing.router import Route, Router
from routing.telemetry.recorder import Recorder
from routing.versions import Reason, Version
from tests.support.fake_pools import FakePool, echo_program, result
from tests.support.rollout import MemoryLog

pytestmark = pytest.mark.anyio

V1, V2 = Version.V1, Version.V2
CRASH = WorkerCrashed("it died", exit_cause="signal 9")


@dataclass
class Traffic:
    """A router, its pools and its flag, and the calls that a test has sent."""

    router: Router
    flag: RolloutFlag
    pools: dict[Version, FakePool]
    registry: CollectorRegistry
    numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    async def ramp(self, percent: int) -> None:
        """Sets the percentage."""
        await self.flag.change(Change(percent * 100, Source.API, "alice"))

    def call(self, *, idempotent: bool = False, session_id: str | None = None) -> Call:
        """A new call."""
        program = echo_program(idempotent=idempotent)
        deadline = asyncio.get_running_loop().time() + 60
        return Call(f"e-{next(self.numbers)}", program, b"{}", deadline, session_id)

    async def send(self, call: Call, route: Route | None = None) -> "asyncio.Task[Result]":
        """Sends a call as far as it gets."""
        task = asyncio.ensure_future(self.router.execute(route or self.router.route(call.session_id), call))
        await asyncio.sleep(0)
        return task

    def pool_of(self, call: Call) -> FakePool:
        """The one pool that has a call."""
        (pool,) = [pool for pool in self.pools.values() if call in (*pool.queued, *pool.running)]
        return pool

    def counted(self, name: str, **labels: str) -> float:
        """The value of a metric."""
        return self.registry.get_sample_value(f"poolshift_{name}", labels) or 0.0


async def traffic(percent: int = 0, *, pin: Version | None = None, versions: tuple[Version, ...] = (V1, V2)) -> Traffic:
    """Traffic at a percentage."""
    flag = await open_flag(MemoryLog(), percent * 100)
    pools = {version: FakePool(version) for version in versions}
    registry = CollectorRegistry()
    recorder = Recorder(registry, {"worker_crashed": "communication", "program_error": "program"})
    return Traffic(
        Router(pools, flag, recorder, judge=LiveJudge(Config()), pin=pin, salt="test"), flag, pools, registry
    )


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("pin", "versions", "forced", "percent", "expected"),
    [
        (V1, (V1, V2), V2, 100, (V1, Reason.PINNED)),
        (V2, (V1, V2), V1, 0, (V2, Reason.PINNED)),
        (None, (V2,), V1, 0, (V2, Reason.PINNED)),
        (None, (V1, V2), V2, 0, (V2, Reason.FORCED)),
        (None, (V1, V2), V1, 100, (V1, Reason.FORCED)),
        (None, (V1, V2), None, 0, (V1, Reason.SPLIT)),
        (None, (V1, V2), None, 100, (V2, Reason.SPLIT)),
    ],
)
async def test_the_pin_comes_first_then_the_header_then_the_split(
    pin: Version | None,
    versions: tuple[Version, ...],
    forced: Version | None,
    percent: int,
    expected: tuple[Version, Reason],
) -> None:
    """And each decision is counted by its reason."""
    here = await traffic(percent, pin=pin, versions=versions)
    decision = here.router.route(None, forced=forced).decision
    assert (decision.version, decision.reason) == expected
    labels = {"pool_version": expected[0], "reason": expected[1]}
    assert here.counted("routing_decisions_total", **labels) == 1


async def test_the_key_of_a_call_is_its_session_else_its_canary_key() -> None:
    """One key, one version, whatever else the call says."""
    here = await traffic(50)
    for session, key in ((None, "k"), ("s", None), ("s", "k"), ("s", "another")):
        versions = {here.router.route(session, key).decision.version for _ in range(20)}
        assert len(versions) == 1
    assert here.router.route("s", "k").bucket == here.router.route("s", "another").bucket


async def test_a_rollback_moves_what_waits_and_lets_what_runs_end() -> None:
    """Each call gets its answer, from the version that the route names then."""
    here = await traffic(100)
    running, waiting = here.call(), here.call()
    routes = [here.router.route(None), here.router.route(None)]
    tasks = [await here.send(call, route) for call, route in zip((running, waiting), routes, strict=True)]
    here.pools[V2].dispatch(running)
    await here.flag.rollback("carol", None)
    await settle()
    assert here.pools[V1].queued == [waiting]
    here.pools[V2].finish(running, result("two"))
    here.pools[V1].finish(waiting, result("one"))
    assert [(await task).outputs for task in tasks] == [result("two").outputs, result("one").outputs]
    assert [route.decision.version for route in routes] == [V2, V1]
    assert here.router.rollback_seconds == 0.0


async def test_a_call_routed_before_a_rollback_and_executed_after_it_is_on_v1() -> None:
    """The rollback comes while the call's program is looked up, or its job is written."""
    here = await traffic(100)
    route = here.router.route(None)
    assert route.decision.version is V2
    await here.flag.rollback("carol", None)
    task = await here.send(call := here.call(), route)
    assert here.pools[V1].accepted == [call]
    here.pools[V1].finish(call, result())
    await task
    assert here.pools[V2].accepted == []


async def test_forced_and_pinned_calls_stay_at_a_rollback() -> None:
    """The split alone is rolled back."""
    here = await traffic(100)
    task = await here.send(call := here.call(), here.router.route(None, forced=V2))
    await here.flag.rollback("carol", None)
    await settle()
    assert here.pools[V2].queued == [call]
    here.pools[V2].finish(call, CRASH)
    with pytest.raises(WorkerCrashed):
        await task


async def test_in_flight_replay_runs_idempotent_calls_on_v1() -> None:
    """The others end on V2; without a rollback nothing is taken away."""
    here = await traffic(100)
    idempotent, other = here.call(idempotent=True), here.call()
    tasks = [await here.send(call) for call in (idempotent, other)]
    for call in (idempotent, other):
        here.pools[V2].dispatch(call)
    here.router.replay_running()
    await settle()
    assert here.pools[V2].running == [idempotent, other]
    await here.flag.rollback("carol", None)
    here.router.replay_running()
    await settle()
    assert (here.pools[V2].running, here.pools[V1].queued) == ([other], [idempotent])
    here.pools[V1].finish(idempotent, result())
    here.pools[V2].finish(other, result())
    await asyncio.gather(*tasks)


async def test_a_retry_after_a_rollback_is_on_v1() -> None:
    """The worker of an idempotent call dies after the rollback was answered: nothing more is dispatched to V2."""
    here = await traffic(100)
    task = await here.send(call := here.call(idempotent=True))
    here.pools[V2].dispatch(call)
    await here.flag.rollback("carol", None)
    here.pools[V2].finish(call, CRASH)
    await settle()
    assert (here.pools[V2].accepted, here.pools[V1].queued) == ([call], [call])
    here.pools[V1].finish(call, result())
    assert await task
    assert here.router.rollback_seconds == 0.0


@given(
    idempotent=st.booleans(),
    has_begun_on_v2=st.booleans(),
    events=st.lists(st.sampled_from(["crash", "withdrawn", "rollback", "ramp", "replay"]), max_size=8),
)
@settings(deadline=None)
def test_a_call_has_one_retry_however_often_it_moves(
    idempotent: bool, has_begun_on_v2: bool, events: list[str]
) -> None:
    """Each start of the call follows the rollout, and the caller gets the error of the second crash."""

    async def run() -> None:
        here = await traffic(100 if has_begun_on_v2 else 0)
        task = await here.send(call := here.call(idempotent=idempotent))
        crashes = 0
        for event in events:
            pool = here.pool_of(call)
            if event in ("crash", "withdrawn"):
                if call in pool.queued:
                    pool.dispatch(call)
                crashes += event == "crash"
                pool.finish(call, CRASH if event == "crash" else Withdrawn())
            elif event == "replay":
                here.router.replay_running()
            elif event == "rollback":
                await here.flag.rollback("carol", None)
            else:
                await here.ramp(100)
            await settle()
            if crashes > idempotent:
                assert task.done()
                with pytest.raises(WorkerCrashed):
                    await task
                labels = {"code": "worker_crashed", "category": "communication"}
                assert here.counted("errors_total", pool_version=pool.version, **labels) == 1
                return
            pool = here.pool_of(call)
            if call in pool.queued:
                assert pool.version == (V2 if here.flag.threshold else V1)
        assert not task.done()
        here.pool_of(call).finish(call, result())
        await task

    asyncio.run(run())


async def test_a_late_dispatch_shows_while_its_call_still_runs() -> None:
    """`rollback_last_dispatch_seconds` tells the truth at once, and not only when the call is over."""
    here = await traffic(100)
    here.pools[V2].withdraw = lambda which: 0  # type: ignore[method-assign]  # a pool that does not let go
    task = await here.send(call := here.call())
    await here.flag.rollback("carol", None)
    assert here.router.rollback_seconds == 0.0
    here.pools[V2].dispatch(call)
    late_s = here.router.rollback_seconds
    assert late_s > 0.0
    here.pools[V2].finish(call, result())
    await task
    assert here.router.rollback_seconds == late_s


async def test_what_is_recorded_is_the_version_that_answered() -> None:
    """For a result and for an error, once each."""
    here = await traffic(100)
    good, bad = here.call(), here.call()
    tasks = [await here.send(call) for call in (good, bad)]
    await here.flag.rollback("carol", None)
    await settle()
    here.pools[V1].finish(good, result())
    here.pools[V1].finish(bad, ProgramError("no"))
    await asyncio.gather(*tasks, return_exceptions=True)
    for outcome in ("ok", "program_error"):
        labels = {"operation": "execute", "outcome": outcome}
        assert here.counted("requests_total", pool_version="v1", **labels) == 1
        assert here.counted("requests_total", pool_version="v2", **labels) == 0


async def test_a_cut_off_replica_sends_everything_to_v1_and_comes_back() -> None:
    """Calls that wait for V2 move to V1; after the reconnection the log's value counts again."""
    here = await traffic(100)
    task = await here.send(call := here.call())
    here.flag.cut_off(20.0)
    await settle()
    assert here.pools[V1].queued == [call]
    assert here.router.route(None).decision.version is V1
    here.pools[V1].finish(call, result())
    await task
    here.flag.reconnect()
    assert here.router.route(None).decision.version is V2


async def test_closing_and_cancelling_free_the_routes() -> None:
    """A call that is cancelled or refused is not requeued later."""
    here = await traffic(100)
    cancelled = await here.send(here.call())
    cancelled.cancel()
    refused = await here.send(here.call())
    await here.pools[V2].aclose()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    with pytest.raises(PoolClosed):
        await refused
    await here.flag.rollback("carol", None)
    assert here.pools[V1].accepted == []


async def test_a_synthetic_call_is_in_no_organic_figure() -> None:
    """Requests and durations count it under its operation; waits, errors and the figures of a day do not."""
    registry = CollectorRegistry()
    recorder = Recorder(registry, {"program_error": "program"})
    recorder.answered(Version.V2, "execute", "ok", 0.3, 0.1)
    recorder.answered(Version.V2, "synthetic", "ok", 5.0, 2.0)
    assert recorder.seconds(Version.V2) == (0.3, 0.1)
    assert sum(recorder.latencies(Version.V2)) == 1
    labels = {"pool_version": "v2", "operation": "synthetic"}
    assert registry.get_sample_value("poolshift_request_duration_seconds_count", labels) == 1
    assert registry.get_sample_value("poolshift_queue_wait_seconds_sum", {"pool_version": "v2"}) == 0.1
    pools = {version: FakePool(version) for version in Version}
    router = Router(
        pools, await open_flag(MemoryLog(), None), recorder, judge=LiveJudge(Config()), pin=None, salt="test"
    )
    router.record_failure(router.synthetic(Version.V2, None), "program_error", "program", "synthetic", 0.0)
    failed = {"pool_version": "v2", "code": "program_error", "category": "program"}
    assert registry.get_sample_value("poolshift_errors_total", failed) == 0
    assert registry.get_sample_value("poolshift_requests_total", {**labels, "outcome": "program_error"}) == 1
