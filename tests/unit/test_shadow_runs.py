"""Shadow calls on fake pools: what is captured, what is shed, what a rollback ends, and what stays bounded."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from analysis.guardrails import Config
from pools.calls import Call, Program, Result
from pools.errors import ExecutionError, ExecutionTimeout, LoadTimeout, Preempted, ProgramError, WorkerCrashed
from poolshift.worker.lm import LMSettings
from routing.rollout.live_judge import LiveJudge
from routing.rollout.model import Rollout, Source
from routing.shadow import runs
from routing.shadow.comparison import MAX_OUTPUT_BYTES
from routing.shadow.evidence import ShadowEvidence
from routing.shadow.gate import FIRST_CALLS, MAX_LAG_S, LoadGate, work_of_this_thread
from routing.shadow.runs import ShadowRuns
from routing.shadow.scoring import Scorer
from routing.shadow.tap import COMPARED_ERRORS, MAX_WAITING, ShadowTap
from routing.telemetry.recorder import Recorder
from routing.telemetry.shadow_metrics import ShadowMetrics
from routing.versions import Decision, Reason, Version
from tests.support.fake_pools import FakePool, echo_program, result
from tests.unit.pool_on_fakes import until

pytestmark = pytest.mark.anyio

OFF = Rollout(1, 0, None, Source.DEFAULT, "start", None)
ON = replace(OFF, shadow_basis_points=10_000)
ORGANIC = Decision(Version.V1, Reason.SPLIT)
IDEMPOTENT = echo_program(idempotent=True)


class Shadowing:
    """Shadow runs on fake pools, and what a test asks of them."""

    def __init__(self) -> None:
        self.v1, self.v2 = FakePool("v1"), FakePool("v2")
        pools = {Version.V1: self.v1, Version.V2: self.v2}
        self.registry = CollectorRegistry()
        self.evidence = ShadowEvidence(LiveJudge(Config()))
        self.busy_share = 0.0
        self.gate = LoadGate(80, lambda: self.busy_share, lambda: 0.0)
        metrics = ShadowMetrics(self.registry)
        scorer = Scorer(
            self.v1,
            self.evidence,
            self.gate,
            metrics,
            sample_percent=100,
            timeout_s=1,
            lm_of=_no_lm,
            count_tokens=lambda *_: None,
        )
        self.tap: ShadowTap | None = None
        self.runs = ShadowRuns(
            pools,
            self.evidence,
            scorer,
            self.gate,
            Recorder(self.registry, {}),
            metrics,
            None,  # type: ignore[arg-type]
            timeout_s=1,
            keeps_examples=True,
            count_tokens=lambda *_: None,
            watch=self._watch,
        )

    def _watch(self, tap: ShadowTap | None) -> None:
        self.tap = tap

    def end(
        self,
        outcome: Result | str,
        *,
        program: Program = IDEMPOTENT,
        decision: Decision = ORGANIC,
        inputs: bytes = b"{}",
    ) -> None:
        """Ends a call of V1, as the router tells it."""
        call = Call("e", program, inputs, 0.0)
        call.worker_pid = 17
        assert self.tap is not None
        if isinstance(outcome, Result):
            self.tap.call_ended(decision, call, None, None, outcome, None, None)
        else:
            self.tap.call_ended(decision, call, None, None, None, outcome, None)

    def ended(self, outcome: str) -> float:
        return self.registry.get_sample_value("poolshift_shadow_calls_total", {"outcome": outcome}) or 0.0

    def requests(self, version: str) -> float:
        samples = [one for family in self.registry.collect() for one in family.samples]
        return sum(
            one.value
            for one in samples
            if one.name == "poolshift_requests_total" and one.labels["pool_version"] == version
        )


def _no_lm(_: str | None) -> LMSettings:
    raise ProgramError("none")


@asynccontextmanager
async def shadowing(rollout: Rollout = ON) -> AsyncIterator[Shadowing]:
    one = Shadowing()
    one.runs.rollout_changed(rollout)
    try:
        yield one
    finally:
        await one.runs.aclose()


async def test_nothing_listens_while_there_is_nothing_to_do() -> None:
    """Neither at a share of 0 nor without a split does a call cost anything."""
    async with shadowing(OFF) as one:
        assert one.tap is None
        one.runs.rollout_changed(ON)
        assert one.tap is not None
        one.runs.rollout_changed(OFF)
        await until(lambda: one.tap is None)


async def test_a_difference_runs_on_v1_again_on_another_worker() -> None:
    async with shadowing() as one:
        one.v2.idle_answer = lambda _: result("otherwise")
        one.v1.idle_answer = lambda _: result("done")
        one.end(result("done"))
        await until(lambda: one.ended("differs") == 1)
        assert [avoid for _, avoid in one.v1.idle_calls] == [17]
        (row,) = [row for row in one.evidence.comparisons.rows() if row.field == "text"]
        assert (row.compared, row.differing, row.noise) == (1, 1, 0)
        assert (one.requests("v1"), one.requests("v2")) == (1, 1)


async def test_the_same_output_runs_on_v1_never_again() -> None:
    async with shadowing() as one:
        one.v2.idle_answer = lambda _: result("done")
        one.end(result("done"))
        await until(lambda: one.ended("same") == 1)
        assert one.v1.idle_calls == []


@pytest.mark.parametrize(
    ("program", "decision"),
    [
        (echo_program(), ORGANIC),
        (IDEMPOTENT, Decision(Version.V1, Reason.FORCED)),
        (IDEMPOTENT, Decision(Version.V1, Reason.PINNED)),
        (IDEMPOTENT, Decision(Version.V2, Reason.SPLIT)),
    ],
    ids=["not idempotent", "forced", "pinned", "of V2"],
)
async def test_only_organic_calls_of_v1_that_may_run_twice_are_copied(program: Program, decision: Decision) -> None:
    async with shadowing() as one:
        one.v2.idle_answer = lambda _: result("done")
        one.end(result("done"), program=program, decision=decision)
        one.end(result("done"))
        await until(lambda: one.ended("same") == 1)
        assert len(one.v2.idle_calls) == 1


@pytest.mark.parametrize("code", sorted(COMPARED_ERRORS))
async def test_an_error_of_v1_is_an_answer_that_v2_must_give_too(code: str) -> None:
    async with shadowing() as one:
        error = ProgramError("no")
        one.v2.idle_answer = one.v1.idle_answer = lambda _: error
        one.end(code)
        one.end("pool_overloaded")
        await until(lambda: one.ended("same") + one.ended("differs") == 1)
        assert one.ended("same") == (code == "program_error")


async def test_calls_wait_for_the_gate_and_are_bounded() -> None:
    """While the loop lags or the processors are busy nothing begins; what does not fit is shed and counted."""
    async with shadowing() as one:
        one.v2.idle_answer = lambda _: result("done")
        one.busy_share = 0.9
        one.gate.tick(0.0, 1.0)
        assert not one.gate.is_open
        for _ in range(MAX_WAITING + 10):
            one.end(result("done"))
        await until(lambda: one.ended("shed") == 10)
        assert one.v2.idle_calls == []
        shed = one.evidence.reports().of("echo").shed
        assert sum(shed.values()) == 10
        assert shed.keys() <= {"processors_busy", "event_loop_busy"}
        one.busy_share = 0.0
        await until(lambda: one.ended("same") == MAX_WAITING)


async def test_large_calls_are_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "MAX_WAITING_BYTES", 1000)
    async with shadowing() as one:
        for _ in range(3):
            one.end(result("x" * 450))
        await until(lambda: one.ended("shed") == 1)


async def test_a_rollback_ends_what_waits_and_what_runs() -> None:
    async with shadowing() as one:
        one.v2.idle_answer = lambda _: None
        for _ in range(3):
            one.end(result("done"))
        await until(lambda: len(one.v2.idle_calls) > 0)
        one.runs.rollout_changed(OFF)
        await until(lambda: "waiting=0 followed=0" in repr(one.runs))
        assert one.ended("same") + one.ended("differs") == 0


async def test_a_call_that_makes_room_says_nothing() -> None:
    async with shadowing() as one:
        one.v2.idle_answer = lambda _: Preempted()
        one.end(result("done"))
        await until(lambda: one.ended("preempted") == 1)
        assert one.evidence.comparisons.rows() == []


async def test_outputs_of_v1_that_are_too_large_count_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are no reason to shed the call, and wait in no memory."""
    monkeypatch.setattr(runs, "MAX_WAITING_BYTES", MAX_OUTPUT_BYTES)
    async with shadowing() as one:
        huge = Result(msgspec.Raw(b'{"text":"' + b"x" * MAX_OUTPUT_BYTES + b'"}'), 0.0)
        one.v2.idle_answer = lambda _: huge
        one.end(huge)
        await until(lambda: one.ended("same") == 1)
        assert (one.ended("shed"), one.v1.idle_calls) == (0, [])


@pytest.mark.parametrize(
    "death", [WorkerCrashed("dead", exit_cause="exit 3"), ExecutionTimeout("it hangs"), LoadTimeout("it loads")]
)
async def test_a_program_that_kills_workers_is_stopped(death: ExecutionError) -> None:
    """Also one whose copies hang: each holds the worker for all of its time, which others wait for."""
    async with shadowing() as one:
        one.v2.idle_answer = lambda _: death
        one.v1.idle_answer = lambda _: result("done")
        for done in range(1, 4):
            one.end(result("done"))
            await until(lambda done=done: one.ended("differs") == done)  # type: ignore[misc]
        one.end(result("done"))
        await until(lambda: one.ended("shed") == 1)
        assert one.evidence.reports().of("echo").shed == {"quarantined": 1}


async def test_another_definition_begins_again() -> None:
    async with shadowing() as one:
        one.v2.idle_answer = lambda _: result("done")
        one.end(result("done"))
        await until(lambda: one.ended("same") == 1)
        revised = Program(IDEMPOTENT.key, IDEMPOTENT.id, IDEMPOTENT.definition, 2)
        one.end(result("done"), program=revised)
        await until(lambda: one.ended("same") == 2)
        assert one.evidence.reports().of("echo").compared == 1


async def test_the_gate_shuts_while_the_loop_lags() -> None:
    gate = LoadGate(100)
    gate.tick(1.0, 1.0 + 2 * MAX_LAG_S)
    assert gate.shut_by == "event_loop_busy"
    gate.tick(1.1, 1.1)
    assert gate.is_open


async def test_the_gate_shuts_while_the_loop_has_no_time_left() -> None:
    """Work for 71 % of the time is too much, work for 69 % is not; a wait for a processor is work, too."""
    work = [0.0]
    gate = LoadGate(100, thread_work=lambda: work[0])
    gate.tick(1.0, 1.0)
    for share, is_open in ((0.71, False), (0.69, True)):
        work[0] += share
        gate.tick(gate._ticked_at + 1.0, gate._ticked_at + 1.0)
        assert gate.is_open is is_open
    began = work_of_this_thread()
    until = time.perf_counter() + 0.05
    while time.perf_counter() < until:
        pass
    assert 0.0 < work_of_this_thread() - began < 1.0


async def test_a_sudden_load_is_noticed_before_many_have_begun() -> None:
    """After a pause few may begin between two looks, and twice as many in each later one."""
    gate = LoadGate(100, thread_work=lambda: 0.0)
    begun = []
    for tick in range(4):
        gate.tick(float(tick), float(tick))
        begun.append(0)
        while gate.admits():
            gate.begun()
            begun[-1] += 1
    assert begun == [FIRST_CALLS, 2 * FIRST_CALLS, 4 * FIRST_CALLS, 8 * FIRST_CALLS]
    gate.tick(4.0, 4.0 + 2 * MAX_LAG_S)
    assert not gate.admits()
    gate.tick(5.0, 5.0)
    for _ in range(FIRST_CALLS):
        assert gate.admits()
        gate.begun()
    assert not gate.admits()


async def test_examples_are_bounded_and_the_evidence_reaches_the_judge() -> None:
    """A flood of differences costs memory for ten of them."""
    async with shadowing() as one:
        one.v2.idle_answer = lambda _: result("otherwise")
        one.v1.idle_answer = lambda _: result("done")
        for done in range(1, 26):
            one.end(Result(msgspec.Raw(b'{"text":"' + b"x" * 5000 + b'"}'), 0.0), inputs=b'{"text":"secret"}')
            await until(lambda done=done: one.ended("differs") == done)  # type: ignore[misc]
        await until(lambda: len(one.evidence.reports().of("echo").examples) == 10)
        one.evidence.feed()
        assert {row.name for row in one.evidence._judge.analysis()} >= {"shadow", "quality"}
