"""The judge while the service runs: fed from the router with every organic call of the split."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import mmh3

from analysis.counters import Counters, total
from analysis.guardrails import Config
from analysis.judge import Judge
from analysis.verdict import Evidence as Fed
from analysis.verdict import Row, Verdict
from pools.calls import Call
from routing.rollout.reasons import outstanding_text, reason
from routing.rollout.recording import FedChange, Recording
from routing.split import BASIS_POINTS
from routing.telemetry.recorder import OK

MAX_EXAMPLES: Final = 20
"""Executions kept for each guardrail, the newest."""
DEFAULT_LATENCY_FLOOR_MS: Final = 5.0
HOLD_S: Final = 10.0
"""The longest time that ended calls are held back because of one that still waits for a worker, in seconds."""
BATCH: Final = 64
"""Assignments, or good ends, that are noted before they are added up: one cost of cold code for many calls."""
MAX_HELD: Final = 65_536
"""Calls that are held back at the most."""
LOOK_AGAIN_S: Final = 0.02
"""Time between two looks at faults, in seconds: a burst of faults is looked at once, and still within 100 ms."""
EXPLAINING_CALLS: Final = 5_000
"""The newest calls that are looked at to say what is slow."""
MOVED: Final = "moved"
"""The outcome of a call that went on to the other version: it judges nothing, and its time is none."""
_monotonic: Final = time.monotonic
_KEY_SEED: Final = 0x6A756467
"""Another seed than the split's: a sample of the keys' hashes must prefer no version."""


@dataclass(frozen=True, slots=True)
class Example:
    """An execution whose fault is part of the evidence against V2."""

    execution_id: str
    trace_id: str | None
    code: str
    detail: str


class End:
    """The end of an organic call: an error's code or `ok`, its time, its cost, and all that else counts."""

    def __init__(
        self,
        execution_id: str,
        program: str,
        version: str,
        outcome: str,
        ms: float,
        is_cold: bool,  # noqa: FBT001  # by its position: names would cost as much as all the rest of an instance
        cost: float | None,
        detail: str,
        t: float,
    ) -> None:
        """Takes the time of the end as `t`, by `time.monotonic`. `cost` is None if the tokens' model has no price."""
        self.execution_id = execution_id
        self.program = program
        self.version = version
        self.outcome = outcome
        self.ms = ms
        self.is_cold = is_cold
        self.cost = cost
        self.detail = detail
        self.t = t


class Evidence:
    """The judge's part of a route: the version and the canary probability at its assignment, the hash of its key."""

    def __init__(
        self,
        w: float,
        key_hash: int | None,
        t: float,
        trace_id: str | None,
        is_canary: bool,  # noqa: FBT001  # as in `End`
    ) -> None:
        self.w = w
        self.key_hash = key_hash
        self.t = t
        self.trace_id = trace_id
        self.is_canary = is_canary
        self.attempts: list[str] | None = None
        """Codes of attempts that failed and that the caller never saw."""
        self.call: Call | None = None
        """The call while a pool has it."""
        self.end: End | None = None
        self.is_held = False
        """True while the call has its place in the order in which calls count."""

    def holds_back(self) -> bool:
        """Tells if the call waits for a worker, or for a worker to load its program: no version is slow for that."""
        call = self.call
        is_waiting = call is not None and (call.is_loading or not call.dispatched_at)
        return is_waiting and _monotonic() - self.t < HOLD_S


class LiveJudge:
    """Counts calls, looks when it is time, and tells its listener of every look's verdict.

    A call costs a note. Notes are added up by the batch, and before anybody looks; a failure is looked at soon.
    """

    def __init__(self, config: Config, *, is_off: bool = False) -> None:
        """Judges nothing if `is_off`: there is one version, or a pin."""
        self._judge = Judge(config)
        self._assigned: list[Evidence] = []
        """Assignments that are not added up yet."""
        self._good_ends = 0
        """Calls among those held that have ended well since the last ones were added up."""
        self._counted_at = 0.0
        self.w = 0.0
        """The canary probability in force; 0 while there is nothing to judge, which is what each call reads."""
        self._calls = [0, 0]
        self.latency_floor_ms = DEFAULT_LATENCY_FLOOR_MS
        """Added to every call's time: a worker that rests between calls wakes on a colder core."""
        self._recording = Recording()
        self._is_off = is_off
        self._others: Counters | None = None
        self._examples: dict[str, deque[Example]] = {}
        self._held: list[Evidence] = []
        """Calls in the order in which pools got them, from the oldest that has not counted and may still wait."""
        self._fed: dict[str, tuple[bool, bool]] = {}
        """By guardrail that is fed: whether it is an alarm, and whether V2 is shown not to be worse."""
        self._tell: dict[str, Callable[[], str]] = {}
        """By guardrail that is fed: a function that tells its evidence in words."""
        self._looks_at: asyncio.TimerHandle | None = None
        self._listener: Callable[[Verdict | None], None] = lambda _: None

    @property
    def judge(self) -> Judge:
        """The judge, which has counted all calls that are noted."""
        self._add_up()
        return self._judge

    @property
    def calls(self) -> tuple[int, int]:
        """Organic assignments since the percentage in force was set: V1's and V2's."""
        self._add_up_assigned()
        return self._calls[0], self._calls[1]

    @property
    def recording(self) -> Recording:
        """Calls that the judge has seen, for the export."""
        self._add_up()
        return self._recording

    def listen(self, listener: Callable[[Verdict | None], None]) -> None:
        """Calls `listener` soon after an event of V2's, with the verdict if it takes no evidence of other replicas."""
        self._listener = listener

    def percent_changed(self, basis_points: int) -> None:
        """Takes note of the percentage in force; a revision that leaves it as it is changes nothing."""
        is_comparable = 0 < basis_points < BASIS_POINTS and not self._is_off
        w = basis_points / BASIS_POINTS if is_comparable else 0.0
        if w != self.w:
            self._add_up_assigned()
            self.w = w
            self._calls = [0, 0]

    # --- fed by the router

    def assigned(self, key: str | None, trace_id: str | None = None, *, is_canary: bool) -> Evidence:
        """Counts the assignment of an organic call; to be called while `w` is above 0."""
        key_hash = None if key is None else mmh3.hash64(key, _KEY_SEED, signed=False)[0]
        evidence, assigned = Evidence(self.w, key_hash, _monotonic(), trace_id, is_canary), self._assigned
        assigned.append(evidence)
        if len(assigned) >= BATCH:
            self._add_up_assigned()
        return evidence

    def began(self, evidence: Evidence, call: Call) -> None:
        """Takes note that a pool has an organic call from now on, until `ended` or `left`."""
        evidence.call = call
        evidence.is_held = True
        self._held.append(evidence)
        if len(self._held) > MAX_HELD:
            self._let_go(self._held.pop(0))

    def attempt_failed(self, evidence: Evidence, call: Call, version: str, code: str, detail: str) -> None:
        """Counts a fault of a call that is tried again."""
        evidence.attempts = [*(evidence.attempts or ()), code]
        self._add_up()
        t = _monotonic()
        guardrail = self._judge.attempt_failed(t, evidence.w, version, evidence.key_hash, call.program.id, code)
        if guardrail is not None:
            self._keep(guardrail, Example(call.execution_id, evidence.trace_id, code, detail))

    def ended(self, evidence: Evidence, end: End) -> None:
        """Counts the end of a call: a failure at once, a success when no call before it waits for a worker any more.

        Otherwise the calls of a version whose workers still start, or load a program, would be missing beside those of
        the other version, and missing calls look like slow ones.
        """
        evidence.call = None
        if end.outcome == OK and evidence.is_held:
            evidence.end = end
            self._good_ends += 1
            if self._good_ends >= BATCH:
                self._add_up()
            return
        self._add_up()
        evidence.is_held = False
        self._count(evidence, end)

    def left(self, evidence: Evidence) -> None:
        """Takes note that no pool has the call any more, although it has not ended: its client has gone."""
        evidence.call = None

    def _add_up(self) -> None:
        """Counts what is noted: the assignments, and then the successes that nothing holds back."""
        self._add_up_assigned()
        self._good_ends = 0
        held, let_go = self._held, 0
        for evidence in held:
            if evidence.end is None and evidence.holds_back():
                break
            let_go += 1
        self._held = held[let_go:]
        for index in range(let_go):
            self._let_go(held[index])

    def _add_up_assigned(self) -> None:
        """Counts assignments in their order, those without a key together while they are of the current step."""
        assigned, self._assigned = self._assigned, []
        judge, current, calls = self._judge, 0.0, [0, 0]
        for evidence in assigned:
            self._calls[evidence.is_canary] += 1
            if evidence.key_hash is None and evidence.w == current:
                calls[evidence.is_canary] += 1
                continue
            judge.assigned_at_step(calls[0], calls[1])
            calls = [0, 0]
            judge.assigned(evidence.t, evidence.w, "v2" if evidence.is_canary else "v1", evidence.key_hash)
            current = judge.w
        judge.assigned_at_step(calls[0], calls[1])

    def _let_go(self, evidence: Evidence) -> None:
        evidence.is_held = False
        end = evidence.end
        if end is not None:
            evidence.end = None
            self._count(evidence, end)

    def _count(self, evidence: Evidence, end: End) -> None:
        # A call that was held back counts with those that it waited for: the recording is in the order of time.
        t = self._counted_at = max(self._counted_at, end.t)
        ms = end.ms + self.latency_floor_ms
        self._recording.add(
            t,
            evidence.t,
            evidence.w,
            evidence.key_hash,
            end.version,
            end.program,
            end.outcome,
            ms,
            end.cost,
            evidence.attempts or (),
            is_cold=end.is_cold,
        )
        guardrail = self._judge.ended(
            t,
            evidence.w,
            end.version,
            evidence.key_hash,
            end.program,
            end.outcome,
            ms,
            is_cold=end.is_cold,
            cost=end.cost,
        )
        if guardrail is not None:
            self._keep(guardrail, Example(end.execution_id, evidence.trace_id, end.outcome, end.detail))

    def feed(self, evidence: Fed, row: Row, tell: Callable[[], str], not_worse: Fed | None = None) -> None:
        """Takes the evidence of a guardrail that is computed elsewhere. The trace has each change of what it says.

        `tell` returns the evidence in words, for the reason of a verdict.
        """
        name, said = evidence.guardrail, (evidence.is_alarm, not_worse is not None and not_worse.is_alarm)
        promotes = any(one.promotes and one.name == name for one in self._judge.config.guardrails)
        if said != self._fed.get(name, None if promotes else (False, False)):
            self._recording.add_fed(FedChange(_monotonic(), self.w, row.action, evidence, not_worse, promotes))
        self._fed[name] = said
        self._tell[name] = tell
        self._judge.feed(evidence, row, not_worse)

    def _keep(self, guardrail: str, example: Example) -> None:
        self._examples.setdefault(guardrail, deque(maxlen=MAX_EXAMPLES)).append(example)
        if self._looks_at is None:
            self._looks_at = asyncio.get_running_loop().call_later(LOOK_AGAIN_S, self._look)

    def _look(self) -> None:
        self._looks_at = None
        self._listener(self.look() if self._others is None else None)

    # --- asked by the controller

    def look(self) -> Verdict:
        """The verdict now, on the calls of this replica alone."""
        return self.judge.look(_monotonic())

    async def look_together(self) -> Verdict:
        """The verdict now, with the evidence of other replicas, whose sum takes a thread some 100 ms."""
        if self._others is None:
            return self.look()
        judge = self.judge
        bench = await asyncio.to_thread(judge.bench_of_now(self._others))
        return judge.look(_monotonic(), bench=bench)

    def analysis(self) -> tuple[Row, ...]:
        """A row for each guardrail."""
        return self.judge.analysis(self._others)

    def analysis_of_now(self) -> Callable[[], tuple[Row, ...]]:
        """Copies the evidence, and returns a function that computes the rows from the copy, on any thread."""
        return self.judge.analysis_of_now(self._others)

    def told(self, guardrail: str | None) -> str:
        """The counts or times behind a guardrail's evidence in words; empty if there is no short word for them."""
        if (tell := self._tell.get(guardrail or "")) is not None:
            return tell()
        counters = self.judge.counters if self._others is None else self.judge.counters.merge(self._others)
        recent = self.recording.newest_timed(EXPLAINING_CALLS, self.latency_floor_ms) if guardrail == "latency" else ()
        return reason(guardrail, counters, recent)

    def lacking(self) -> str:
        """The guardrails whose evidence promotion still waits for, in words; empty with several replicas."""
        return "" if self._others is not None else ", ".join(map(outstanding_text, self.judge.outstanding()))

    def counted(self) -> tuple[int, int]:
        """Organic calls to V1 and V2 that this replica has added to the evidence."""
        return total(self.judge.counters.calls.values())

    def examples(self) -> Mapping[str, tuple[Example, ...]]:
        """The newest executions that are part of the evidence, by guardrail."""
        return {name: tuple(kept) for name, kept in self._examples.items()}

    def restart(self, config: Config | None = None, counters: Counters | None = None) -> None:
        """Begins again, with no evidence or with that of `counters`."""
        self._judge = Judge(config or self._judge.config, counters)
        self._others = None
        if counters is None:
            for evidence in self._held:
                evidence.is_held, evidence.end = False, None
            self._held.clear()
            self._assigned.clear()
            self._good_ends = 0
            self._examples.clear()
            self._recording.clear()
            self._fed.clear()
            self._tell.clear()

    def hear_others(self, others: Counters | None) -> None:
        """Takes the evidence of other replicas, and of runs of this service before a restart."""
        self._others = others

    def step_calls(self) -> int:
        """Organic calls that ended at the present percentage, on all replicas."""
        return sum(self._calls_at(counters) for counters in (self.judge.counters, self._others) if counters is not None)

    def _calls_at(self, counters: Counters) -> int:
        at = [index for index, (w, _) in enumerate(counters.steps) if w == self.w]
        return sum(sum(counters.calls.get(index, (0, 0))) for index in at)

    def close(self) -> None:
        """Looks no more."""
        if self._looks_at is not None:
            self._looks_at.cancel()
