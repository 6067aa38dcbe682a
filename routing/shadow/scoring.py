"""Scores calls by their programs' own metrics: in a worker, after the answer, outside of every deadline."""

import asyncio
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import mmh3
import msgspec

from analysis.keys import KeyMarks, is_of_shard
from common.tasks import TaskOwner
from pools.calls import Call, Program, Result
from pools.errors import ExecutionError, Preempted, ProgramQuarantined
from pools.protocol import Pool
from poolshift.worker.definitions import Definition, Signature
from poolshift.worker.lm import LMSettings, LMUsage
from routing.rollout.live_judge import Evidence
from routing.shadow.evidence import ShadowEvidence
from routing.shadow.gate import LoadGate
from routing.shadow.idle_calls import IdleCalls
from routing.telemetry.shadow_metrics import ShadowMetrics
from routing.versions import Version

MAX_WAITING: Final = 64
"""Calls that wait for a worker to be scored; further ones are left out."""
MAX_RUNNING: Final = 8
MAX_SCORED_BYTES: Final = 256 * 1024
"""Inputs or outputs that are larger are not scored."""
MAX_PROGRAMS: Final = 1000
MAX_STEPS: Final = 16
_FAILURES: Final = {
    "program_error": "raised",
    "invalid_outputs": "not_a_number",
    "execution_timeout": "timeout",
    "load_timeout": "not_loaded",
    "load_failed": "not_loaded",
    "lm_error": "lm",
    "worker_crashed": "crashed",
}
_encode: Final = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Answered:
    """A call that has been answered: its program, inputs and LM."""

    program: Program
    inputs: bytes | msgspec.Raw
    lm: LMSettings | None


@dataclass(frozen=True, slots=True)
class _Job:
    """Outputs to score: V1's and V2's of one shadow call, or those of an organic call at the probability `w`."""

    answered: Answered
    outputs: tuple[tuple[Version, bytes], ...]
    w: float = 0.0


class _Score(msgspec.Struct):
    score: float


class _Call(msgspec.Struct):
    inputs: msgspec.Raw
    outputs: msgspec.Raw


class Scorer:
    """Runs metrics on idle workers, of V1 if that runs: one place scores the answers of both versions."""

    def __init__(
        self,
        pool: Pool,
        evidence: ShadowEvidence,
        gate: LoadGate,
        metrics: ShadowMetrics,
        *,
        sample_percent: float,
        timeout_s: float,
        lm_of: Callable[[str | None], LMSettings],
        count_tokens: Callable[[LMSettings, LMUsage], None],
    ) -> None:
        """Takes from `lm_of` the LM of a metric whose program has none; `count_tokens` takes an LM and its use."""
        self._pool = pool
        self._evidence = evidence
        self._gate = gate
        self._metrics = metrics
        self._threshold = round(sample_percent / 100 * 2**32)
        self._timeout_s = timeout_s
        self._lm_of = lm_of
        self._count_tokens = count_tokens
        self._idle_calls = IdleCalls()
        self._waiting: deque[_Job] = deque()
        self._running = 0
        self._number = 0
        self._tasks = TaskOwner("scores", is_detached=True)
        self._programs: dict[tuple[str, str], Program] = {}
        self._seen: dict[float, KeyMarks] = {}
        self._seen_pairs = KeyMarks()

    @property
    def is_at_work(self) -> bool:
        """True while calls wait to be scored, or are."""
        return bool(self._waiting or self._running)

    def call_ended(self, version: Version, call: Call, evidence: Evidence, result: Result) -> None:
        """Takes an organic call for a score, if chance says so and its key has not been scored at this step."""
        if random.getrandbits(32) >= self._threshold or len(self._waiting) >= MAX_WAITING:
            return
        if not is_of_shard(evidence.key_hash, *self._evidence.shard):
            return
        marks = self._seen.get(evidence.w)
        if marks is None:
            if len(self._seen) >= MAX_STEPS:
                self._seen.clear()
            marks = self._seen[evidence.w] = KeyMarks()
        if marks.first_copy(evidence.key_hash, 0) < 0 or _is_large(call.inputs, result.outputs):
            return
        marks.mark(evidence.key_hash, 0)
        answered = Answered(call.program, call.inputs, call.lm)
        self._waiting.append(_Job(answered, ((version, bytes(result.outputs)),), evidence.w))

    def pair(self, answered: Answered, key: str | None, v1: bytes, v2: bytes) -> None:
        """Takes a shadow call for two scores, unless its key has been scored before."""
        key_hash = None if key is None else mmh3.hash64(f"{answered.program.id} {key}", signed=False)[0]
        if _is_large(answered.inputs, v1, v2) or not is_of_shard(key_hash, *self._evidence.shard):
            return
        if len(self._waiting) >= MAX_WAITING or self._seen_pairs.first_copy(key_hash, 0) < 0:
            return
        self._seen_pairs.mark(key_hash, 0)
        self._waiting.append(_Job(answered, ((Version.V1, v1), (Version.V2, v2))))
        self.advance()

    def advance(self) -> None:
        """Begins the metrics that can begin now."""
        while self._waiting and self._gate.is_open and self._running < MAX_RUNNING:
            job = self._waiting[0]
            calls = [self._call(job.answered, outputs) for _, outputs in job.outputs[:1]]
            try:
                self._idle_calls.admit(calls[0].program, calls[0].execution_id)
            except ProgramQuarantined:
                self._waiting.popleft()
                self._failed(job.answered.program, "quarantined")
                continue
            answer = self._pool.begin_idle(calls[0])
            if answer is None:
                return
            self._waiting.popleft()
            self._running += 1
            self._tasks.start(self._score(job, calls[0], answer)).add_done_callback(self._ended)

    async def aclose(self) -> None:
        """Ends all runs of metrics."""
        self._waiting.clear()
        await self._tasks.aclose()

    def _ended(self, _: "asyncio.Task[None]") -> None:
        self._running -= 1
        self.advance()

    async def _score(self, job: _Job, call: Call, answer: asyncio.Future[Result]) -> None:
        """Scores all outputs of a job, one after another, and counts them if all have a score."""
        scores: list[float] = []
        for index, (_, outputs) in enumerate(job.outputs):
            if index:
                call = self._call(job.answered, outputs)
                begun = await self._begin(call)
                if begun is None:
                    return
                answer = begun
            score = await self._end_of(job.answered.program, call, answer)
            if score is None:
                return
            scores.append(score)
        self._count(job, scores)

    async def _begin(self, call: Call) -> "asyncio.Future[Result] | None":
        """Waits for an idle worker for the second score of a pair, for as long as the metric may run."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._timeout_s
        while loop.time() < until:
            if self._gate.is_open and (answer := self._pool.begin_idle(call)) is not None:
                call.deadline = self._idle_calls.deadline(call.program, self._timeout_s)
                return answer
            await asyncio.sleep(0.05)
        return None

    async def _end_of(self, program: Program, call: Call, answer: asyncio.Future[Result]) -> float | None:
        """Waits for a score; returns it as a share of the metric's range, None if there is none."""
        try:
            ended = await self._idle_calls.end_of(self._pool, call, answer)
        except Preempted:
            return None
        if call.lm is not None and (usage := ended.usage) is not None:
            self._count_tokens(call.lm, usage)
        if ended.result is None:
            self._failed(program, _reason(ended.error))
            return None
        score = msgspec.json.decode(ended.result.outputs, type=_Score).score
        low, high = program.definition.metric_range or (0.0, 1.0)
        if not low <= score <= high:
            self._failed(program, "out_of_range")
            return None
        return (score - low) / (high - low)

    def _count(self, job: _Job, scores: list[float]) -> None:
        program_id = job.answered.program.id
        if self._evidence.of(job.answered.program) is None:
            return
        for (version, _), score in zip(job.outputs, scores, strict=True):
            self._metrics.scored(version, score)
        if len(scores) > 1:
            self._evidence.scores.pair(program_id, *scores)
        else:
            self._evidence.scores.scored(program_id, job.w, int(job.outputs[0][0] is Version.V2), scores[0])

    def _failed(self, program: Program, reason: str) -> None:
        self._metrics.metric_failed(reason)
        if (of_program := self._evidence.of(program)) is not None:
            of_program.failures[reason] += 1

    def _call(self, answered: Answered, outputs: bytes) -> Call:
        program = self._metric_of(answered.program)
        self._number += 1
        inputs = _encode(_Call(msgspec.Raw(answered.inputs), msgspec.Raw(outputs)))
        lm = answered.lm
        if lm is None:
            try:
                lm = self._lm_of(None)
            except ExecutionError:
                lm = None  # a metric need not have one
        deadline = self._idle_calls.deadline(program, self._timeout_s)
        return Call(f"score-{self._number}", program, inputs, deadline, lm=lm)

    def _metric_of(self, program: Program) -> Program:
        """Returns the metric as a program, the same for all calls, so that a worker loads it once."""
        metric = program.definition.metric
        assert metric is not None
        key = program.key, metric
        found = self._programs.get(key)
        if found is None:
            if len(self._programs) >= MAX_PROGRAMS:
                self._programs.clear()
            definition = Definition("metric", Signature((), ()), metric)
            found = self._programs[key] = Program(f"metric of {program.key}", program.id, definition)
        return found


def _is_large(*parts: bytes | msgspec.Raw) -> bool:
    return max(memoryview(one).nbytes for one in parts) > MAX_SCORED_BYTES


def _reason(error: ExecutionError | None) -> str:
    return "raised" if error is None else _FAILURES.get(error.code, "raised")
