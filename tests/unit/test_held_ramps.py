"""A ramp over restarts, under a pin, and amid changes of the pools: what it keeps, and what its history says."""

from dataclasses import replace

import pytest

from analysis.guardrails import Config
from routing.errors import PlanConflict
from routing.rollout.flag import open_flag
from routing.rollout.identity import Identity
from routing.rollout.live_judge import LiveJudge
from routing.rollout.model import Change, Source
from routing.rollout.plan import Plan
from routing.rollout.ramp import RampState
from routing.rollout.ramp_clock import StepTimes
from tests.support.rollout import MemoryLog
from tests.unit.test_controller import MOVES, PLAN, MemoryStore, Pools, opened, serve

pytestmark = pytest.mark.anyio
STEPS = [{"percent": 1, "hold_s": 0, "min_calls": 0}, {"percent": 50, "hold_s": 0, "min_calls": 0}]
ADVANCING = Plan.model_validate({"steps": STEPS, "on_inconclusive": "advance", "max_wait_s": 0.001})


async def test_a_pin_holds_a_ramp_until_a_start_without_it() -> None:
    """No step, no promotion and no clock goes on; the history has its beginning and its end, once each."""
    flag, store = await open_flag(MemoryLog(), None), MemoryStore()
    ramp = await opened(flag, LiveJudge(Config()), store)
    await ramp.set_plan(ADVANCING, "ops")
    await ramp.start("ops", None)
    await ramp.aclose()
    held_s = []
    for _ in range(2):
        store.ran_s = 100.0  # these count the first time alone: the ramp is held from then on
        ramp = await opened(flag, LiveJudge(Config(), is_off=True), store, pin="v1")
        for _ in range(3):
            await ramp.tick()
        assert (ramp.ramp.state, ramp.ramp.step, flag.current.canary_basis_points) == (RampState.RAMPING, 0, 100)
        for refused in (ramp.promote("ops", None), ramp.approve("ops", None), ramp.resume("ops", None)):
            with pytest.raises(PlanConflict, match="POOL_VERSION=v1 pins all calls"):
                await refused
        held_s.append(ramp.facts(ramp.verdict()).held_s)
        await ramp.aclose()
    assert held_s[0] == pytest.approx(100, abs=5)
    assert held_s[1] == pytest.approx(held_s[0], abs=0.01)
    ramp = await opened(flag, LiveJudge(Config()), store)
    for _ in range(3):
        await ramp.tick()
    told = [(one.canary_percent, one.reason) for one in await flag.history(limit=10)][::-1]
    assert told[2:4] == [(1, "held: POOL_VERSION=v1 pins all calls"), (1, "held no longer: POOL_VERSION pins no calls")]
    assert ramp.ramp.step == 1
    await ramp.aclose()


async def test_a_persons_percentage_outlasts_a_pin() -> None:
    """The ramp is paused as it was, and an abort works."""
    flag, store = await open_flag(MemoryLog(), None), MemoryStore()
    ramp = await opened(flag, LiveJudge(Config()), store)
    await ramp.set_plan(ADVANCING, "ops")
    await ramp.start("ops", None)
    await flag.change(Change(700, Source.API, "carol"))
    await ramp.aclose()
    for pin in ("v1", None):
        ramp = await opened(flag, LiveJudge(Config(), is_off=pin is not None), store, pin=pin)
        for _ in range(3):
            await ramp.tick()
        assert (ramp.ramp.state, flag.current.canary_basis_points) == (RampState.PAUSED, 700)
        await ramp.aclose()
    ramp = await opened(flag, LiveJudge(Config(), is_off=True), store, pin="v1")
    await ramp.abort("carol", "enough")
    assert (ramp.ramp.state, flag.current.canary_basis_points) == (RampState.ABORTED, 0)
    await ramp.aclose()


@pytest.mark.parametrize(("word", "waited_s"), [("advance", 1030.0), ("rollback", 1080.0)])
async def test_a_restart_goes_on_with_the_hold_and_the_wait(word: str, waited_s: float) -> None:
    """A service ran for 30 s of the last 80: these count, and the rest only for a rollback; the next start, too."""
    steps = [{"percent": 1, "hold_s": 0}, {"percent": 50, "hold_s": 0}]
    plan = Plan.model_validate({"steps": steps, "on_inconclusive": word, "max_wait_s": 5000})
    flag, store = await open_flag(MemoryLog(), None), MemoryStore()
    ramp = await opened(flag, LiveJudge(Config()), store)
    await ramp.set_plan(plan, "ops")
    await ramp.start("ops", None)
    await ramp.tick()
    assert ramp.ramp.state is RampState.WAITING
    await ramp.aclose()
    since = ramp.since
    store.ramps[-1] = replace(store.ramps[-1], times=StepTimes(2000.0, 1000.0, since))
    for ran_s, idle_s in ((30.0, 50.0), (0.0, 0.0)):
        store.ran_s, store.is_idle_for_s = ran_s, idle_s
        ramp = await opened(flag, LiveJudge(Config()), store)
        await ramp.tick()
        facts = ramp.facts(ramp.verdict())
        assert facts.held_s == pytest.approx(2030, abs=5)
        assert facts.waited_s == pytest.approx(waited_s, abs=5)
        assert (ramp.ramp.state, ramp.since) == (RampState.WAITING, since)
        assert store.ramps[-1].times is not None
        assert store.ramps[-1].times.held_s == pytest.approx(2030, abs=5)
        await ramp.aclose()


async def test_another_leader_goes_on_with_the_hold() -> None:
    """A replica that follows a ramp, which began before it, has the times of that one."""
    flag, store = await open_flag(MemoryLog(), None), MemoryStore()
    one = await opened(flag, LiveJudge(Config()), store, is_shared=True)
    await one.set_plan(PLAN, "ops")
    await one.start("ops", None)
    store.ramps[-1] = replace(store.ramps[-1], times=StepTimes(500.0, 0.0, one.since))
    store.ran_s = 20.0
    other = await opened(flag, LiveJudge(Config()), store, is_shared=True)
    assert other.facts(other.verdict()).held_s == pytest.approx(520, abs=5)
    moved = replace(store.ramps[-1], revision=store.ramps[-1].revision + 1, times=StepTimes(700.0, 0.0, one.since))
    other.follow(moved)
    assert other.facts(other.verdict()).held_s == pytest.approx(700, abs=5)
    for ramp in (one, other):
        await ramp.aclose()


@pytest.mark.parametrize("is_found_amid", [False, True])
async def test_a_change_of_the_pools_is_one_line_of_the_history(*, is_found_amid: bool) -> None:
    """It names who did what, whether a look finds the other pools before the change is over or not."""
    flag, store, pools = await open_flag(MemoryLog(), None), MemoryStore(), Pools(code="1")
    judge = LiveJudge(Config())
    ramp = await opened(flag, judge, store, pools)
    await ramp.set_plan(PLAN, "ops")
    await ramp.start("ops", None)
    await ramp.tick()
    before = flag.current.revision
    async with ramp.changing(lambda: "alice reloaded v2 (code 1 to 2)"):
        pools.identity = Identity.of({"code": "2"})
        if is_found_amid:
            await ramp.tick()
        serve(judge, 90)
    assert judge.step_calls() == 0
    for _ in range(3):
        await ramp.tick()
    told = [one.reason for one in await flag.history(limit=10) if one.revision > before]
    assert told == ["evidence starts again: alice reloaded v2 (code 1 to 2)"]
    assert ramp.ramp.reason == told[0]
    with pytest.raises(RuntimeError):
        async with ramp.changing(lambda: "bob reloaded v2"):
            raise RuntimeError
    async with ramp.changing(lambda: "carol set an LM") as cause:
        cause.withdraw()
    serve(judge, 90)
    await ramp.tick()
    assert (judge.step_calls(), flag.current.revision) == (90, before + 1)
    await ramp.aclose()


async def test_a_change_that_is_told_late_is_one_line_too() -> None:
    """The interpreter cannot be asked when the change is over: what it then tells is that same change."""
    flag, store, pools = await open_flag(MemoryLog(), None), MemoryStore(), Pools(code="1")
    ramp = await opened(flag, LiveJudge(Config()), store, pools)
    await ramp.set_plan(PLAN, "ops")
    await ramp.start("ops", None)
    before = flag.current.revision
    async with ramp.changing(lambda: "alice reloaded v2"):
        pools.identity = None
    pools.identity = Identity.of({"code": "2"})
    for _ in range(2):
        await ramp.tick()
    assert (flag.current.revision, ramp.ramp.identity) == (before + 1, pools.identity)
    pools.identity = Identity.of({"code": "3"})
    await ramp.tick()
    assert flag.current.reason == "evidence starts again: code changed"
    await ramp.aclose()


async def test_a_leader_looks_twice_before_it_says_that_pools_changed() -> None:
    """A replica that made the change tells of it meanwhile; until then no evidence moves the ramp upwards."""
    flag, store, pools = await open_flag(MemoryLog(), None), MemoryStore(), Pools(code="1")
    ramp = await opened(flag, LiveJudge(Config()), store, pools, is_shared=True)
    await ramp.set_plan(Plan(steps=MOVES["the next step"]), "ops")
    await ramp.start("ops", None)
    pools.identity = Identity.of({"code": "2"})
    await ramp.tick()
    assert (ramp.ramp.step, ramp.ramp.state) == (0, RampState.WAITING)
    assert "the pools are others" in (ramp.ramp.reason or "")
    told = replace(ramp.ramp, identity=pools.identity, run=ramp.ramp.run + 1, by="bob", state=RampState.RAMPING)
    store.ramps.append(replace(store.ramps[-1], revision=store.ramps[-1].revision + 1, ramp=told))
    await ramp.tick()
    assert (ramp.ramp.run, ramp.ramp.step) == (told.run, 1)
    pools.identity = Identity.of({"code": "3"})
    for _ in range(2):
        await ramp.tick()
    assert (ramp.ramp.run, ramp.ramp.step) == (told.run + 1, 1)
    assert flag.current.reason == "evidence starts again: code changed"
    await ramp.aclose()
