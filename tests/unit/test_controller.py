"""The controller of a ramp on a store in memory: a verdict moves no run but its own."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import pytest

from analysis.guardrails import Config
from analysis.verdict import Say
from routing.rollout.controller import RampController
from routing.rollout.flag import open_flag
from routing.rollout.live_judge import LiveJudge
from routing.rollout.plan import Plan, PlanStep
from routing.rollout.ramp import Ramp, RampState
from routing.rollout.ramp_store import Decision, Exchange, ReplicaReport, Snapshot, StoredRamp
from tests.support.rollout import MemoryLog

pytestmark = pytest.mark.anyio
PLAN = Plan(steps=(PlanStep(percent=50, hold_s=3600),))


class MemoryStore:
    """A store whose `decide` waits until the test lets it go on."""

    def __init__(self) -> None:
        self.ramps: list[StoredRamp] = []
        self.decided: list[Decision] = []
        self.may_decide = asyncio.Event()
        self.may_decide.set()
        self.is_deciding = asyncio.Event()

    async def latest(self) -> StoredRamp | None:
        return self.ramps[-1] if self.ramps else None

    async def append(self, ramp: Ramp, *, after: int) -> StoredRamp:
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
    ramp = RampController(
        flag, judge, store, is_shared=False, v1_serves=lambda: True, v2_serves=lambda: True, programs=lambda: 1
    )
    await ramp.open()
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
