"""Shadow calls: after V1's answer a copy of the call runs on an idle worker of V2, and V1's again where they differ.

The caller never waits: a call is captured when it has ended, and everything else happens later. Captured calls wait
in a bounded queue until the load gate is open and V2 has a worker to spare; what does not fit is shed.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

import msgspec
import structlog

from analysis.odd_ones import Odd
from common.tasks import TaskOwner
from common.threads import in_thread
from pools.calls import Call, Program, Result
from pools.errors import ExecutionError, Preempted, ProgramQuarantined
from pools.protocol import Pool
from poolshift.worker.lm import LMSettings, LMUsage
from routing.rollout.model import Rollout
from routing.shadow.comparison import MAX_OUTPUT_BYTES, TOO_LARGE, Comparison, Outcome, Same, differing
from routing.shadow.evidence import ProgramEvidence, ShadowEvidence
from routing.shadow.examples import make_example
from routing.shadow.gate import LoadGate
from routing.shadow.idle_calls import Ended, IdleCalls
from routing.shadow.on_demand import OnDemand
from routing.shadow.scoring import Answered, Scorer
from routing.shadow.tap import MAX_WAITING, ShadowTap
from routing.split import BASIS_POINTS, threshold
from routing.telemetry.call_trace import CallTrace
from routing.telemetry.recorder import OK, Recorder
from routing.telemetry.shadow_metrics import ShadowMetrics
from routing.versions import Version

MAX_WAITING_BYTES: Final = 32 * 1024 * 1024
"""Inputs and outputs of all captured calls together, waiting and running."""
MAX_AGE_S: Final = 30.0
"""A captured call that has waited for longer is shed."""
MAX_FOLLOWED: Final = 32
"""Shadow calls that run, or wait for V1's third run."""
THIRD_WAIT_S: Final = 10.0
"""Time for which a call that differs waits for an idle worker of V1."""
TICK_S: Final = 0.1
REST_S: Final = 0.5
"""Interval of the ticks while no call may be copied and none waits."""
NO_IDLE_WORKER: Final = "no_idle_worker"
TOO_MANY_AT_ONCE: Final = "too_many_at_once"
FEED_EVERY_S: Final = 0.5
"""Interval at which the judge gets the evidence, in seconds."""
MIN_REST: Final = 50
"""The interval is this many times longer than the computation, which takes 0.1 s for 1,000 programs."""
SMALL_BYTES: Final = 8 * 1024
"""Outputs up to this size are compared on the event loop, larger ones in a thread."""

_T = TypeVar("_T")
_log = structlog.stdlib.get_logger("poolshift.shadow")


@dataclass(slots=True, eq=False)
class Captured:
    """A call that V1 has answered, with all that its shadow needs."""

    execution_id: str
    program: Program
    of_program: ProgramEvidence
    inputs: bytes | msgspec.Raw
    lm: LMSettings | None
    session_id: str | None
    choose: Callable[[Call, str], None] | None
    """Gives a copy the program and the LM of a version, if the versions differ in one of them."""
    outputs: msgspec.Raw | None
    code: str | None
    run_ms: float
    worker_pid: int
    key: str | None
    trace: CallTrace | None
    size: int
    at: float


class ShadowRuns:
    """Captures calls, runs their shadows and compares the outcomes."""

    def __init__(
        self,
        pools: Mapping[Version, Pool],
        evidence: ShadowEvidence,
        scorer: Scorer,
        gate: LoadGate,
        recorder: Recorder,
        metrics: ShadowMetrics,
        on_demand: OnDemand,
        *,
        timeout_s: float,
        keeps_examples: bool,
        count_tokens: Callable[[Version, LMSettings, LMUsage], None],
        watch: Callable[[ShadowTap | None], None],
    ) -> None:
        """Calls `watch` with a listener while there are calls to capture, and with None while there are none."""
        self.evidence = evidence
        self.exchange: Callable[[], Awaitable[None]] = _nothing
        """Exchanges the evidence with the store at once."""
        self.on_demand = on_demand
        """Compares both versions on inputs that somebody has."""
        self._pools = pools
        self._scorer = scorer
        self._gate = gate
        self._recorder = recorder
        self._metrics = metrics
        self._timeout_s = timeout_s
        self._keeps_examples = keeps_examples
        self._count_tokens = count_tokens
        self._watch = watch
        self._is_comparing = False
        """True while both versions get organic calls, which are scored."""
        self._idle_calls = {version: IdleCalls() for version in Version}
        """A program that kills the workers of one version may be sound on the other."""
        self._waiting: deque[Captured] = deque()
        self._held_up_by: str = NO_IDLE_WORKER
        """The reason for which captured calls wait."""
        self._followed: dict[asyncio.Task[None], Captured] = {}
        self._bytes = 0
        self._tap = ShadowTap(self._waiting, self._capture_soon, scorer.call_ended)
        self._tasks = TaskOwner("shadow", is_detached=True)
        self._loop = asyncio.get_running_loop()
        self._ticked = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._feed_at = 0.0

    def __repr__(self) -> str:
        return (
            f"<ShadowRuns threshold={self._tap.threshold} waiting={len(self._waiting)} followed={len(self._followed)}>"
        )

    # --- the flag

    def rollout_changed(self, rollout: Rollout) -> None:
        """Takes up the share in force; at 0, also by a rollback, all shadow calls end at once."""
        self._metrics.percent_changed(rollout.shadow_percent)
        is_split = 0 < rollout.canary_basis_points < BASIS_POINTS
        self._is_comparing = is_split and len(self._pools) == len(Version)
        self._tap.threshold = threshold(rollout.shadow_basis_points) if Version.V1 in self._pools else 0
        if not self._tap.threshold:
            self._waiting.clear()
            self._bytes = sum(one.size for one in self._followed.values())
            for task in self._followed:
                task.cancel()
        self._follow_switch()

    def _follow_switch(self) -> None:
        is_on = self._tap.threshold > 0 or self._is_comparing
        self._watch(self._tap if is_on else None)
        if is_on and self._timer is None:
            is_at_work = self._tap.threshold > 0 or self._waiting or self._followed or self._scorer.is_at_work
            self._due = self._loop.time() + (TICK_S if is_at_work else REST_S)
            self._timer = self._loop.call_at(self._due, self._tick)

    def restart(self) -> None:
        """Begins again with no evidence."""
        self.evidence.restart()
        self.evidence.feed()

    async def aclose(self) -> None:
        """Ends all shadow calls."""
        self._watch(None)
        if self._timer is not None:
            self._timer.cancel()
        await self._tasks.aclose()
        await self._scorer.aclose()

    # --- captured calls

    def _capture_soon(
        self, call: Call, key: str | None, result: Result | None, code: str | None, trace: CallTrace | None
    ) -> None:
        """Captures a call after its answer has left."""
        self._loop.call_soon(self._capture, call, key, result, code, trace)

    def _capture(
        self, call: Call, key: str | None, result: Result | None, code: str | None, trace: CallTrace | None
    ) -> None:
        outputs = None if result is None else result.outputs
        if outputs is not None and _size(outputs) > MAX_OUTPUT_BYTES:
            outputs, code = None, TOO_LARGE  # it counts as such, and is not kept until V2 has a worker to spare
        size = _size(call.inputs) + (0 if outputs is None else _size(outputs))
        of_program = self.evidence.of(call.program)
        if of_program is None:
            self._shed(None, "too_many_programs")
            return
        if len(self._waiting) >= MAX_WAITING or self._bytes + size > MAX_WAITING_BYTES:
            self._shed(of_program, self._held_up_by)
            return
        self._waiting.append(
            Captured(
                call.execution_id,
                call.program,
                of_program,
                call.inputs,
                call.lm,
                call.session_id,
                call.choose,
                outputs,
                code,
                0.0 if result is None else 1000 * result.run_s,
                call.worker_pid,
                key,
                trace,
                size,
                self._loop.time(),
            )
        )
        self._bytes += size
        self._advance()

    def _shed(self, of_program: ProgramEvidence | None, reason: str, count: int = 1) -> None:
        self._metrics.ended("shed", count)
        if of_program is not None:
            of_program.shed[reason] += count

    def _count_refused(self) -> None:
        refused, self._tap.refused = self._tap.refused, {}
        for program, count in refused.items():
            self._shed(self.evidence.of(program), self._held_up_by, count)

    # --- running them

    def _tick(self) -> None:
        now = self._loop.time()
        self._gate.tick(self._due, now)
        self._timer = None
        self._count_refused()
        while self._waiting and now - self._waiting[0].at > MAX_AGE_S:
            old = self._waiting.popleft()
            self._bytes -= old.size
            self._shed(old.of_program, self._held_up_by)
        self._advance()
        self._scorer.advance()
        if now >= self._feed_at:
            began = time.perf_counter()  # the loop's time stands still in a callback
            self.evidence.feed()
            self._feed_at = now + max(FEED_EVERY_S, MIN_REST * (time.perf_counter() - began))
        self._ticked.set()
        self._ticked = asyncio.Event()
        self._follow_switch()

    def _advance(self) -> None:
        """Begins the shadow calls that can begin now."""
        while self._waiting:
            if not self._gate.admits() or len(self._followed) >= MAX_FOLLOWED:
                self._held_up_by = self._gate.shut_by or TOO_MANY_AT_ONCE
                return
            captured = self._waiting[0]
            try:
                call = self._copy(captured, "shadow", Version.V2)
                self._idle_calls[Version.V2].admit(call.program, call.execution_id)
            except ExecutionError as error:
                self._waiting.popleft()
                self._bytes -= captured.size
                self._shed(captured.of_program, "quarantined" if isinstance(error, ProgramQuarantined) else error.code)
                continue
            self.evidence.note_v2(captured.program, call.program)
            answer = self._pools[Version.V2].begin_idle(call)
            if answer is None:
                self._held_up_by = NO_IDLE_WORKER
                return
            self._gate.begun()
            self._waiting.popleft()
            task = self._tasks.start(self._follow(captured, call, answer))
            self._followed[task] = captured
            task.add_done_callback(self._followed_to_its_end)

    def _followed_to_its_end(self, task: "asyncio.Task[None]") -> None:
        self._bytes -= self._followed.pop(task).size
        self._advance()

    def _copy(self, captured: Captured, suffix: str, version: Version) -> Call:
        """Makes a copy of a call for a version. Raises ExecutionError if the version has no LM for it."""
        trace = None if captured.trace is None else captured.trace.linked(version)
        call = Call(
            f"{captured.execution_id}.{suffix}",
            captured.program,
            captured.inputs,
            0.0,
            captured.session_id,
            trace=trace,
            lm=captured.lm,
        )
        if captured.choose is not None:
            captured.choose(call, version)
        call.deadline = self._idle_calls[version].deadline(call.program, self._timeout_s)
        return call

    async def _follow(self, captured: Captured, call: Call, answer: asyncio.Future[Result]) -> None:
        """Waits for V2's outcome, compares it with V1's, and lets V1 run again where they differ."""
        second = await self._end_of(Version.V2, call, answer)
        of_program = captured.of_program
        if second is None:
            self._metrics.ended("preempted")
            of_program.shed["preempted"] += 1
            return
        first = _first(captured)
        comparison = of_program.comparison
        same = await _beside(first, second.outcome, partial(comparison.compare, first, second.outcome))
        others = differing(same)
        odd: dict[str, Odd] = {}
        if others:
            odd = await self._odd_ones(captured, comparison, others, first, second.outcome)
        if self.evidence.programs.get(captured.program.id) is not of_program:
            return  # another definition by now
        self._count(captured, of_program, same, odd, first, second.outcome)
        if any(odd.values()) and self._keeps_examples and of_program.examples.wants(odd):
            await self._keep_example(captured, of_program, odd, first, second.outcome)
        self._score(captured, first, second)

    async def _odd_ones(
        self, captured: Captured, comparison: Comparison, others: list[str], first: Outcome, second: Outcome
    ) -> dict[str, Odd]:
        third = await self._third(captured)
        if third is None:
            return dict.fromkeys(others, "unknown")
        return await _beside(first, second, partial(comparison.odd_ones, others, first, second, third))

    async def _third(self, captured: Captured) -> Outcome | None:
        """Runs the call on V1 once more, on another worker than before if there is one; None if none comes free."""
        until = self._loop.time() + THIRD_WAIT_S
        while self._loop.time() < until:
            if self._gate.is_open:
                try:
                    call = self._copy(captured, "again", Version.V1)
                except ExecutionError:
                    return None
                answer = self._pools[Version.V1].begin_idle(call, captured.worker_pid)
                if answer is not None:
                    ended = await self._end_of(Version.V1, call, answer)
                    if ended is not None:
                        return ended.outcome
            await self._ticked.wait()
        return None

    async def _end_of(self, version: Version, call: Call, answer: asyncio.Future[Result]) -> Ended | None:
        """Waits for the end of a run and records it; None if a real call needed the worker."""
        began = time.perf_counter()
        try:
            ended = await self._idle_calls[version].end_of(self._pools[version], call, answer)
        except Preempted:
            return None
        code = ended.outcome.code if ended.error is not None else OK
        self._recorder.shadowed(version, code or OK, time.perf_counter() - began)
        if call.lm is not None and (usage := ended.usage) is not None:
            self._count_tokens(version, call.lm, usage)
        if isinstance(call.trace, CallTrace):
            call.trace.shadow_ended(None if ended.error is None else ended.error.code, call.program.id)
        return ended

    # --- the outcome

    def _count(
        self,
        captured: Captured,
        of_program: ProgramEvidence,
        same: Same,
        odd: Mapping[str, Odd],
        first: Outcome,
        second: Outcome,
    ) -> None:
        if odd or None not in same.values():
            self._metrics.ended("differs" if odd else "same")
        else:
            self._metrics.ended("not_comparable")
            of_program.shed["outputs_too_deep"] += 1
        for one in odd.values():
            self._metrics.differs(one)
        self.evidence.compared(captured.program.id, same, odd)
        if first.code is None and second.code is None:
            of_program.ms[0] += first.ms
            of_program.ms[1] += second.ms
            of_program.timed += 1

    async def _keep_example(
        self, captured: Captured, of_program: ProgramEvidence, odd: dict[str, Odd], first: Outcome, second: Outcome
    ) -> None:
        trace_id = None if captured.trace is None else captured.trace.trace_id
        secret = of_program.comparison.secret
        inputs = bytes(captured.inputs)
        make = partial(make_example, captured.execution_id, trace_id, odd, inputs, first, second, secret)
        of_program.examples.add(await in_thread(make))

    def _score(self, captured: Captured, first: Outcome, second: Ended) -> None:
        if captured.program.definition.metric is None or first.outputs is None or second.outcome.outputs is None:
            return
        answered = Answered(captured.program, captured.inputs, captured.lm)
        self._scorer.pair(answered, captured.key, first.outputs, second.outcome.outputs)


def _first(captured: Captured) -> Outcome:
    if captured.outputs is None:
        return Outcome(None, captured.code, captured.run_ms)
    return Outcome.of_outputs(captured.outputs, captured.run_ms)


async def _beside(first: Outcome, second: Outcome, work: Callable[[], dict[str, _T]]) -> dict[str, _T]:
    """Runs a comparison on the event loop if the outputs are small, else in a thread."""
    if len(first.outputs or b"") + len(second.outputs or b"") <= SMALL_BYTES:
        return work()
    return await in_thread(work)


def _size(data: bytes | msgspec.Raw) -> int:
    return memoryview(data).nbytes


async def _nothing() -> None:
    """Exchanges nothing."""
