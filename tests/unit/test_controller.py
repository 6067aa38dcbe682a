"""The controller of a ramp on a store in memory: a verdict moves no run but its own."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import pytest

from analysis.guardrails import Config
from analysis.verdict import Say
from routing.errors import PlanConflict, StoreUnavailable
from routing.rollout.controller import FOUND_AFTER_S, PoolFacts, RampController
from routing.rollout.flag import RolloutFlag, open_flag
from routing.rollout.identity import Identity
from routing.rollout.live_judge import LiveJudge
from routing.rollout.model import Change, Source
from routing.rollout.plan import Plan, PlanStep
from routing.rollout.ramp import Ramp, RampState
from routing.rollout.ramp_clock import StepTimes
from routing.rollout.ramp_store import Decision, Exchange, FoundRamp, ReplicaReport, Snapshot, StaleRamp, StoredRamp
from routing.rollout.run_evidence import Catalogue
from tests.support.rollout import MemoryLog

pytestmark = pytest.mark.anyio
PLAN = Plan(steps=(PlanStep(percent=50, hold_s=3600),))


class MemoryStore:
    """A store whose `append` and `decide` wait until the test lets them go on."""

    def __init__(self) -> None:
        self.ramps: list[StoredRamp] = []
        self.decided: list[Decision] = []
        self.may_decide = asyncio.Event()
        self.may_decide.set()
        self.is_deciding = asyncio.Event()
        self.may_append = asyncio.Event()
        self.may_append.set()
        self.is_appending = asyncio.Event()
        self.kept: dict[str, Mapping[str, Snapshot]] = {}
        self.ran_s = 0.0
        self.is_idle_for_s = 0.0

    async def find(self) -> FoundRamp | None:
        return FoundRamp(self.ramps[-1], self.ran_s, self.is_idle_for_s) if self.ramps else None

    async def append(self, ramp: Ramp, times: StepTimes, *, after: int) -> StoredRamp:
        self.is_appending.set()
        await self.may_append.wait()
        if self.ramps and self.ramps[-1].revision != after:
            raise StaleRamp(self.ramps[-1])
        self.ramps.append(StoredRamp(after + 1, ramp, datetime.now(UTC), times))
        return self.ramps[-1]

    async def decide(self, decision: Decision) -> None:
        self.is_deciding.set()
        await self.may_decide.wait()
        self.decided.append(decision)

    async def decisions(self, *, limit: int, before: int | None = None) -> Sequence[Decision]:
        return self.decided[::-1][:limit]

    async def keep(self, report: ReplicaReport, generation: str, snapshot: Snapshot | None) -> None:
        if snapshot is not None:
            self.kept[generation] = {report.id: snapshot}

    async def evidence(self, generation: str) -> Mapping[str, Snapshot]:
        return self.kept.get(generation, {})

    async def exchange(self, report: ReplicaReport, generation: str, snapshot: Snapshot | None) -> Exchange:
        newest = self.ramps[-1] if self.ramps else None
        return Exchange(is_leader=True, replicas=(report,), ramp=newest, evidence={})


class Pools:
    """The pools' identity, as a test says it."""

    def __init__(self, **parts: str) -> None:
        self.identity: Identity | None = Identity.of(parts)

    async def tell(self) -> Identity | None:
        return self.identity


async def opened(
    flag: RolloutFlag,
    judge: LiveJudge,
    store: MemoryStore,
    pools: Pools | None = None,
    *,
    pin: str | None = None,
    is_shared: bool = False,
) -> RampController:
    """The controller of a service whose pools both serve, and that has its store alone unless `is_shared`."""
    tell = (pools or Pools(code="1")).tell
    facts = PoolFacts(v1_serves=lambda: True, v2_serves=lambda: True, identity=tell, pin=pin)
    ramp = RampController(flag, judge, store, facts, Catalogue(lambda: 1), is_shared=is_shared)
    await ramp.open()
    return ramp


def fail_on_v2(judge: LiveJudge, code: str = "program_error") -> None:
    """Counts 400 calls, one a second until now, of which V2 fails each one that it gets."""
    for number in range(400):
        t, version = time.monotonic() - 400 + number, "v2" if number % 2 else "v1"
        judge.judge.assigned(t, judge.w, version, number)
        outcome = code if version == "v2" else "ok"
        judge.judge.ended(t, judge.w, version, number, "p", outcome, 1.0, is_cold=False, cost=0.0)


async def test_a_verdict_on_an_ended_run_moves_no_new_one() -> None:
    """A look has found evidence, and while that is written a person begins the plan again, with none."""
    flag, judge, store = await open_flag(MemoryLog(), None), LiveJudge(Config()), MemoryStore()
    ramp = await opened(flag, judge, store)
    await ramp.set_plan(PLAN, "ops")
    await ramp.start("ops", None)
    await ramp.tick()
    fail_on_v2(judge)
    assert judge.look().action is Say.ROLLBACK
    store.may_decide.clear()
    store.is_deciding.clear()
    look = asyncio.create_task(ramp.tick())
    await store.is_deciding.wait()
    await ramp.abort("ops", "again")
    await ramp.start("ops", None)
    run = ramp.ramp.run
    assert ramp.verdict().action is Say.CONTINUE
    store.may_decide.set()
    await look
    assert (ramp.ramp.state, ramp.ramp.run) == (RampState.RAMPING, run)
    assert flag.current.canary_basis_points == 5000
    await ramp.aclose()


MOVES = {
    "the next step": (PlanStep(percent=1, hold_s=0, min_calls=0), PlanStep(percent=50, hold_s=3600)),
    "waiting": (PlanStep(percent=1, hold_s=0, min_calls=100), PlanStep(percent=50, hold_s=3600)),
}


@pytest.mark.parametrize("is_judges", [False, True])
@pytest.mark.parametrize("steps", MOVES.values(), ids=MOVES.keys())
async def test_a_rollback_amid_a_move_ends_the_ramp(steps: tuple[PlanStep, ...], *, is_judges: bool) -> None:
    """A person's or the judge's, while the ramp's move is being written: no later look brings the percentage back."""
    flag, judge, store = await open_flag(MemoryLog(), None), LiveJudge(Config()), MemoryStore()
    ramp = await opened(flag, judge, store)
    await ramp.set_plan(Plan(steps=steps), "ops")
    await ramp.start("ops", None)
    store.may_append.clear()
    store.is_appending.clear()
    moving = asyncio.create_task(ramp.tick())
    await store.is_appending.wait()
    if is_judges:
        fail_on_v2(judge)
        judge._look()
    else:
        await flag.rollback("carol", "at once")
    for _ in range(5):
        await asyncio.sleep(0)
    store.may_append.set()
    await moving
    for _ in range(3):
        await ramp.tick()
    assert (ramp.ramp.state, ramp.ramp.by) == (RampState.ROLLED_BACK, "judge" if is_judges else "carol")
    assert store.ramps[-1].ramp == ramp.ramp
    assert flag.current.canary_basis_points == 0
    assert await percentages(flag) == [0, 1, 0]
    await ramp.aclose()


async def test_a_persons_change_amid_a_step_pauses_the_ramp() -> None:
    """While the step is being written: the person's percentage stays."""
    flag, judge, store = await open_flag(MemoryLog(), None), LiveJudge(Config()), MemoryStore()
    ramp = await opened(flag, judge, store)
    await ramp.set_plan(Plan(steps=MOVES["the next step"]), "ops")
    await ramp.start("ops", None)
    store.may_append.clear()
    store.is_appending.clear()
    moving = asyncio.create_task(ramp.tick())
    await store.is_appending.wait()
    await flag.change(Change(2500, Source.API, "carol"))
    store.may_append.set()
    await moving
    for _ in range(3):
        await ramp.tick()
    assert (ramp.ramp.state, ramp.ramp.by) == (RampState.PAUSED, "carol")
    assert store.ramps[-1].ramp == ramp.ramp
    assert await percentages(flag) == [25, 1, 0]
    await ramp.aclose()


async def test_a_restart_moves_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """The next run finds the ramp as it was, and since when; its log tells of no move."""
    flag, store = await open_flag(MemoryLog(), None), MemoryStore()
    for _ in range(2):
        ramp = await opened(flag, LiveJudge(Config()), store)
        if ramp.ramp.state is RampState.IDLE:
            await ramp.set_plan(PLAN, "ops")
            await ramp.start("ops", None)
            capsys.readouterr()
        await ramp.aclose()
    said = capsys.readouterr().out
    assert "ramp found" in said
    assert "ramp moved" not in said
    assert store.ramps[-1].times is not None
    assert (ramp.ramp.state, ramp.since) == (RampState.RAMPING, store.ramps[-1].times.since)


async def two_replicas() -> tuple[RampController, RampController]:
    """Two that know the same plan, of which the first has moved since the second looked."""
    store, flag = MemoryStore(), await open_flag(MemoryLog(), None)
    one = await opened(flag, LiveJudge(Config()), store, is_shared=True)
    await one.set_plan(PLAN, "one")
    other = await opened(flag, LiveJudge(Config()), store, is_shared=True)
    await one.set_plan(PLAN, "one")
    return one, other


async def test_a_start_that_another_replica_overtakes_is_made_after_it() -> None:
    """Unless the other has started the plan, which is told."""
    one, other = await two_replicas()
    assert (await other.start("other", None)).state is RampState.RAMPING
    with pytest.raises(PlanConflict, match="a plan is under way"):
        await one.start("one", None)


async def test_no_plan_is_started_but_the_one_that_was_there() -> None:
    """Another replica has set another one meanwhile."""
    one, other = await two_replicas()
    await one.set_plan(Plan(steps=(PlanStep(percent=5, hold_s=60),)), "one")
    with pytest.raises(PlanConflict, match="has moved meanwhile"):
        await other.start("other", None)
    assert other.ramp.state is RampState.IDLE


async def test_a_plan_is_resumed_while_its_pause_is_written() -> None:
    """The tick writes the pause that a person's change caused; the resume waits for that, and is not refused."""
    flag, judge, store = await open_flag(MemoryLog(), None), LiveJudge(Config()), MemoryStore()
    ramp = await opened(flag, judge, store)
    await ramp.set_plan(Plan(steps=MOVES["the next step"]), "ops")
    await ramp.start("ops", None)
    await flag.change(Change(2500, Source.API, "carol"))
    store.may_append.clear()
    store.is_appending.clear()
    look = asyncio.create_task(ramp.tick())
    await store.is_appending.wait()
    resuming = asyncio.create_task(ramp.resume("carol", None))
    for _ in range(5):
        await asyncio.sleep(0)
    store.may_append.set()
    assert (await resuming).state is RampState.RAMPING
    await look
    assert store.ramps[-1].ramp == ramp.ramp
    assert (await percentages(flag))[-4:] == [1, 25, 1, 0]
    await ramp.aclose()


async def percentages(flag: RolloutFlag) -> list[float]:
    """All percentages that there were, the newest first."""
    return [one.canary_percent for one in await flag.history(limit=10)]


async def test_evidence_rolls_a_paused_ramp_back() -> None:
    """A person has paused it, or a change of the percentage has: V2 fails, and does not keep its share."""
    for how in ("pause", "percentage"):
        flag, judge, store = await open_flag(MemoryLog(), None), LiveJudge(Config()), MemoryStore()
        ramp = await opened(flag, judge, store)
        await ramp.set_plan(PLAN, "ops")
        await ramp.start("ops", None)
        if how == "pause":
            await ramp.pause("ops", "lunch")
        else:
            await flag.change(Change(6000, Source.API, "ops", "more"))
        fail_on_v2(judge)
        await ramp.tick()
        assert (ramp.ramp.state, ramp.ramp.by) == (RampState.ROLLED_BACK, "judge")
        assert flag.current.canary_basis_points == 0
        await ramp.aclose()


async def test_a_plan_without_guard_leaves_a_paused_ramp_where_it_is() -> None:
    """The person who paused it has taken that upon himself."""
    flag, judge, store = await open_flag(MemoryLog(), None), LiveJudge(Config()), MemoryStore()
    ramp = await opened(flag, judge, store)
    await ramp.set_plan(PLAN.model_copy(update={"guard": False}), "ops")
    await ramp.start("ops", None)
    await ramp.pause("ops", "lunch")
    fail_on_v2(judge)
    await ramp.tick()
    assert (ramp.ramp.state, flag.current.canary_basis_points) == (RampState.PAUSED, 5000)
    await ramp.aclose()


async def test_other_pools_begin_the_step_again() -> None:
    """Calls, hold and approval of one build are none of another's, after a restart and while the service runs."""
    steps = (PlanStep(percent=10, hold_s=60, min_calls=100, approval=True), PlanStep(percent=50, hold_s=0))
    flag, store, pools = await open_flag(MemoryLog(), None), MemoryStore(), Pools(code="1")
    judge = LiveJudge(Config())
    ramp = await opened(flag, judge, store, pools)
    await ramp.set_plan(Plan(steps=steps), "ops")
    await ramp.start("ops", None)
    await ramp.tick()
    serve(judge, 90)
    await ramp.approve("ops", "looks good", 1)
    pools.identity = Identity.of({"code": "2"})
    await ramp.tick()
    assert (ramp.ramp.state, ramp.ramp.step, ramp.ramp.is_approved) == (RampState.RAMPING, 0, False)
    assert ramp.ramp.reason == "evidence starts again: code changed"
    assert judge.step_calls() == 0
    assert (await flag.history(limit=1))[0].reason == ramp.ramp.reason
    serve(judge, 90)
    await ramp.approve("ops", "looks good", 1)
    await ramp.aclose()
    again = LiveJudge(Config())
    ramp = await opened(flag, again, store, Pools(code="3"))
    assert (ramp.ramp.step, ramp.ramp.is_approved, again.step_calls()) == (0, False, 0)
    await ramp.aclose()


async def test_the_same_pools_go_on_with_their_evidence_after_a_restart() -> None:
    """A ramp that began after a rollback keeps it as well as any other."""
    flag, judge, store = await open_flag(MemoryLog(), None), LiveJudge(Config()), MemoryStore()
    ramp = await opened(flag, judge, store)
    await ramp.set_plan(PLAN, "ops")
    await ramp.start("ops", None)
    await flag.rollback("ops", "first")
    await ramp.start("ops", None)
    await ramp.tick()
    serve(judge, 90)
    await ramp.aclose()
    again = LiveJudge(Config())
    ramp = await opened(flag, again, store)
    assert again.step_calls() == 90
    await ramp.aclose()


async def test_a_ramp_that_nobody_carried_out_for_long_is_found_paused() -> None:
    """The database may be yesterday's; whoever resumes the ramp has looked."""
    for late_s, state in ((FOUND_AFTER_S - 60, RampState.RAMPING), (FOUND_AFTER_S + 60, RampState.PAUSED)):
        flag, store = await open_flag(MemoryLog(), None), MemoryStore()
        ramp = await opened(flag, LiveJudge(Config()), store)
        await ramp.set_plan(PLAN, "ops")
        await ramp.start("ops", None)
        await ramp.aclose()
        store.is_idle_for_s = late_s
        ramp = await opened(flag, LiveJudge(Config()), store)
        await ramp.tick()
        assert (ramp.ramp.state, store.ramps[-1].ramp.state) == (state, state)
        told = flag.current.reason or ""
        if state is RampState.PAUSED:
            assert "6 min in which no service carried it out" in (ramp.ramp.reason or "")
            assert told == f"paused: {ramp.ramp.reason}"
        else:
            assert "paused" not in told
        await ramp.aclose()


async def test_a_store_that_fails_inside_a_move_ends_no_look(capsys: pytest.CaptureFixture[str]) -> None:
    """The look goes on alone, says so once, and the next one that can write moves the ramp."""
    flag, judge, store = await open_flag(MemoryLog(), None), LiveJudge(Config()), MemoryStore()
    ramp = await opened(flag, judge, store)
    await ramp.set_plan(Plan(steps=MOVES["the next step"]), "ops")
    await ramp.start("ops", None)
    for method in ("decide", "append"):
        kept = getattr(store, method)
        setattr(store, method, unavailable)
        for _ in range(3):
            await ramp.tick()
        assert (ramp.ramp.step, ramp.evidence.is_leader) == (0, False)
        setattr(store, method, kept)
    assert capsys.readouterr().out.count("this replica judges on by itself") == 1
    await ramp.tick()
    assert (ramp.ramp.step, ramp.evidence.is_leader) == (1, True)
    await ramp.aclose()


async def test_a_guardrail_that_pauses_takes_the_share_back() -> None:
    """To what the plan says, written as the history's own source; a person's percentage then stays."""
    plan = Plan.model_validate({**PLAN.model_dump(), "guardrails": {"capacity": {"back_to": 2}}})
    flag, judge, store = await open_flag(MemoryLog(), None), LiveJudge(Config()), MemoryStore()
    ramp = await opened(flag, judge, store)
    await ramp.set_plan(plan, "ops")
    await ramp.start("ops", None)
    fail_on_v2(judge, "pool_overloaded")
    await ramp.tick()
    assert (ramp.ramp.state, flag.current.canary_basis_points) == (RampState.PAUSED, 200)
    assert (flag.current.source, flag.current.updated_by) == (Source.PAUSE, "judge")
    await flag.change(Change(500, Source.API, "ops"))
    await ramp.tick()
    assert (ramp.ramp.state, flag.current.canary_basis_points) == (RampState.PAUSED, 500)
    await ramp.aclose()


async def test_a_pause_of_the_judge_is_in_the_history() -> None:
    """So are a person's pause, resumption and approval, although they move no traffic."""
    flag, judge, store = await open_flag(MemoryLog(), None), LiveJudge(Config()), MemoryStore()
    ramp = await opened(flag, judge, store)
    await ramp.set_plan(PLAN, "ops")
    await ramp.start("ops", None)
    fail_on_v2(judge, "pool_overloaded")
    await ramp.tick()
    await ramp.resume("carol", "the pool was small")
    await ramp.approve("dave", "fine", 1)
    told = [(one.updated_by, one.source, one.reason) for one in await flag.history(limit=3)][::-1]
    assert told[0][:2] == ("judge", Source.JUDGE)
    assert (told[0][2] or "").startswith("paused: capacity: ")
    assert told[1] == ("carol", Source.PLAN, "resumed, capacity overruled: ramp: step 1 of 1, the pool was small")
    assert told[2] == ("dave", Source.PLAN, "step 1 approved: fine")
    await ramp.aclose()


async def unavailable(*_: object, **__: object) -> None:
    """A method of a store that does not answer."""
    raise StoreUnavailable("the database is gone")


def serve(judge: LiveJudge, count: int) -> None:
    """Counts calls that went well, half of them on V2."""
    for number in range(count):
        t, version = time.monotonic() - count + number, "v2" if number % 2 else "v1"
        judge.judge.assigned(t, judge.w, version, number)
        judge.judge.ended(t, judge.w, version, number, "p", "ok", 1.0, is_cold=False, cost=0.0)
