"""The controller of a ramp on a store in memory: a verdict moves no run but its own."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import pytest

from analysis.guardrails import Config
from analysis.verdict import Say
from routing.rollout.controller import RampController
from routing.rollout.flag import RolloutFlag, open_flag
from routing.rollout.live_judge import LiveJudge
from routing.rollout.model import Change, Source
from routing.rollout.plan import Plan, PlanStep
from routing.rollout.ramp import Ramp, RampState
from routing.rollout.ramp_store import Decision, Exchange, ReplicaReport, Snapshot, StaleRamp, StoredRamp
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

    async def latest(self) -> StoredRamp | None:
        return self.ramps[-1] if self.ramps else None

    async def append(self, ramp: Ramp, *, after: int) -> StoredRamp:
        self.is_appending.set()
        await self.may_append.wait()
        if self.ramps and self.ramps[-1].revision != after:
            raise StaleRamp(self.ramps[-1])
        self.ramps.append(StoredRamp(after + 1, ramp, datetime.now(UTC)))
        return self.ramps[-1]

    async def decide(self, decision: Decision) -> None:
        self.is_deciding.set()
        await self.may_decide.wait()
        self.decided.append(decision)

    async def decisions(self, *, limit: int, before: int | None = None) -> Sequence[Decision]:
        return self.decided[::-1][:limit]

    async def put_evidence(self, generation: str, replica: str, snapshot: Snapshot) -> None:
        """Keeps nothing: no test starts a service again."""

    async def evidence(self, generation: str) -> Mapping[str, Snapshot]:
        return {}

    async def exchange(self, report: ReplicaReport, generation: str, snapshot: Snapshot | None) -> Exchange:
        return Exchange(is_leader=True, replicas=(report,), ramp=await self.latest(), evidence={})


async def opened(flag: RolloutFlag, judge: LiveJudge, store: MemoryStore) -> RampController:
    """The controller of a service that shares its store with no other, and whose pools both serve."""
    ramp = RampController(
        flag, judge, store, is_shared=False, v1_serves=lambda: True, v2_serves=lambda: True, programs=lambda: 1
    )
    await ramp.open()
    return ramp


def fail_on_v2(judge: LiveJudge) -> None:
    """Counts 400 calls, one a second until now, of which V2 fails each one that it gets."""
    for number in range(400):
        t, version = time.monotonic() - 400 + number, "v2" if number % 2 else "v1"
        judge.judge.assigned(t, judge.w, version, number)
        outcome = "program_error" if version == "v2" else "ok"
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
    assert (ramp.ramp.state, ramp.since) == (RampState.RAMPING, store.ramps[-1].at)


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
