"""The judge while the service runs: fed from the router with every organic call of the split."""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Final

import mmh3

from analysis.counters import Counters, total
from analysis.guardrails import Config
from analysis.judge import Judge
from analysis.verdict import Row, Verdict
from routing.split import BASIS_POINTS

MAX_EXAMPLES: Final = 20
"""Executions kept for each guardrail, the newest."""
MAX_RECORDED: Final = 65_536
"""Calls kept for the export of what the judge saw, the newest."""
DEFAULT_LATENCY_FLOOR_MS: Final = 5.0
LOOK_AGAIN_S: Final = 0.02
"""Time between two looks at faults, in seconds: a burst of faults is looked at once, and still within 100 ms."""
_KEY_SEED: Final = 0x6A756467
"""Another seed than the split's: a sample of the keys' hashes must prefer no version."""


@dataclass(frozen=True, slots=True)
class Example:
    """An execution whose fault is part of the evidence against V2."""

    execution_id: str
    trace_id: str | None
    code: str
    detail: str


def _most_faulty(counters: Counters, guardrail: str | None) -> str | None:
    """The program with more than half of V2's faults of a guardrail, if there is one."""
    faults: Counter[str] = Counter()
    for (name, _, _, _, program), pair in counters.events.items():
        if name == guardrail:
            faults[program] += pair[1]
    program, count = max(faults.items(), key=itemgetter(1), default=("", 0))
    return program if 2 * count > faults.total() else None


class Evidence:
    """The judge's part of a route: the canary probability at its assignment, and the hash of its key."""

    def __init__(self, w: float, key_hash: int | None, t: float) -> None:
        self.w = w
        self.key_hash = key_hash
        self.t = t
        self.attempts: list[str] = []
        """Codes of attempts that failed and that the caller never saw."""


class LiveJudge:
    """Counts calls, looks when it is time, and tells its listener of every look's verdict."""

    def __init__(self, config: Config, *, is_off: bool = False) -> None:
        """Judges nothing if `is_off`: there is one version, or a pin."""
        self.judge = Judge(config)
        self.w = 0.0
        """The canary probability in force; 0 while there is nothing to judge, which is what each call reads."""
        self.calls = [0, 0]
        """Organic assignments since the percentage in force was set: V1's and V2's."""
        self.latency_floor_ms = DEFAULT_LATENCY_FLOOR_MS
        """Added to every call's time: a worker that rests between calls wakes on a colder core."""
        self.dropped = 0
        """Calls that the export has no room for any more."""
        self._is_off = is_off
        self._others: Counters | None = None
        self._examples: dict[str, deque[Example]] = {}
        self._recorded: deque[tuple[Any, ...]] = deque(maxlen=MAX_RECORDED)
        self._looks_at: asyncio.TimerHandle | None = None
        self._listener: Callable[[Verdict | None], None] = lambda _: None

    def listen(self, listener: Callable[[Verdict | None], None]) -> None:
        """Calls `listener` soon after an event of V2's, with the verdict if it takes no evidence of other replicas."""
        self._listener = listener

    def percent_changed(self, basis_points: int) -> None:
        """Takes note of the percentage in force."""
        is_comparable = 0 < basis_points < BASIS_POINTS and not self._is_off
        self.w = basis_points / BASIS_POINTS if is_comparable else 0.0
        self.calls = [0, 0]

    # --- fed by the router

    def assigned(self, key: str | None, *, is_canary: bool) -> Evidence:
        """Counts the assignment of an organic call; to be called while `w` is above 0."""
        key_hash = None if key is None else mmh3.hash64(key, _KEY_SEED, signed=False)[0]
        t = time.monotonic()
        self.calls[is_canary] += 1
        self.judge.assigned(t, self.w, "v2" if is_canary else "v1", key_hash)
        return Evidence(self.w, key_hash, t)

    def attempt_failed(self, evidence: Evidence, version: str, program: str, code: str, example: Example) -> None:
        """Counts a fault of a call that is tried again."""
        evidence.attempts.append(code)
        t = time.monotonic()
        guardrail = self.judge.attempt_failed(t, evidence.w, version, evidence.key_hash, program, code)
        if guardrail is not None:
            self._keep(guardrail, example)

    def ended(
        self,
        evidence: Evidence,
        version: str,
        program: str,
        outcome: str,
        ms: float,
        *,
        is_cold: bool,
        cost: float = 0.0,
    ) -> str | None:
        """Counts the end of a call; returns the guardrail that has a new event of V2's, which wants an example."""
        t = time.monotonic()
        ms += self.latency_floor_ms
        if len(self._recorded) == MAX_RECORDED:
            self.dropped += 1
        self._recorded.append((t, evidence, version, program, outcome, ms, is_cold, cost))
        return self.judge.ended(
            t, evidence.w, version, evidence.key_hash, program, outcome, ms, is_cold=is_cold, cost=cost
        )

    def keep_example(self, guardrail: str, example: Example) -> None:
        """Keeps an execution that is part of the evidence, and looks soon."""
        self._keep(guardrail, example)

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
        return self.judge.look(time.monotonic())

    async def look_together(self) -> Verdict:
        """The verdict now, with the evidence of other replicas, whose sum takes a thread some 100 ms."""
        if self._others is None:
            return self.look()
        judge = self.judge
        bench = await asyncio.to_thread(judge.bench_of_now(self._others))
        return judge.look(time.monotonic(), bench=bench)

    def analysis(self) -> tuple[Row, ...]:
        """A row for each guardrail."""
        return self.judge.analysis(self._others)

    def analysis_of_now(self) -> Callable[[], tuple[Row, ...]]:
        """Copies the evidence, and returns a function that computes the rows from the copy, on any thread."""
        return self.judge.analysis_of_now(self._others)

    def told(self, guardrail: str | None) -> str:
        """The counts behind a guardrail's evidence in words; empty if it does not count faults."""
        counters = self.judge.counters if self._others is None else self.judge.counters.merge(self._others)
        calls = total(counters.calls.values())
        faults = total(pair for (name, _), pair in counters.faults.items() if name == guardrail)
        if not sum(faults):
            return ""
        told = f"V2 has {faults[1]:,} faults in {calls[1]:,} calls, V1 {faults[0]:,} in {calls[0]:,}"
        program = _most_faulty(counters, guardrail)
        return told if program is None else f"{told}; most of V2's by the program {program}"

    def lacking(self) -> str:
        """The guardrails whose evidence promotion still waits for, in words; empty with several replicas."""
        if self._others is not None:
            return ""
        lacking = [f"{one.guardrail} {one.log_e:.2f} of {one.threshold:.2f}" for one in self.judge.lacking()]
        return ", ".join(lacking)

    def counted(self) -> tuple[int, int]:
        """Organic calls to V1 and V2 that this replica has added to the evidence."""
        return total(self.judge.counters.calls.values())

    def examples(self) -> Mapping[str, tuple[Example, ...]]:
        """The newest executions that are part of the evidence, by guardrail."""
        return {name: tuple(kept) for name, kept in self._examples.items()}

    def restart(self, config: Config | None = None, counters: Counters | None = None) -> None:
        """Begins again, with no evidence or with that of `counters`."""
        self.judge = Judge(config or self.judge.config, counters)
        self._others = None
        if counters is None:
            self._examples.clear()
            self._recorded.clear()
            self.dropped = 0

    def hear_others(self, others: Counters | None) -> None:
        """Takes the evidence of other replicas, and of runs of this service before a restart."""
        self._others = others

    def step_calls(self) -> int:
        """Organic calls that ended at the present percentage, on all replicas."""
        return sum(self._calls_at(counters) for counters in (self.judge.counters, self._others) if counters is not None)

    def _calls_at(self, counters: Counters) -> int:
        at = [index for index, (w, _) in enumerate(counters.steps) if w == self.w]
        return sum(sum(counters.calls.get(index, (0, 0))) for index in at)

    def recorded(self) -> list[dict[str, Any]]:
        """The calls that the judge saw, as lines of a trace for `poolshift judge replay`; keys are hashes."""
        return [_trace_line(*call) for call in self._recorded]

    def close(self) -> None:
        """Looks no more."""
        if self._looks_at is not None:
            self._looks_at.cancel()


def _trace_line(
    t: float,
    evidence: Evidence,
    version: str,
    program: str,
    outcome: str,
    ms: float,
    is_cold: bool,  # noqa: FBT001
    cost: float,
) -> dict[str, Any]:
    line = {
        "t": round(t, 6),
        "assigned": round(evidence.t, 6),
        "w": evidence.w,
        "arm": version,
        "key": None if evidence.key_hash is None else f"{evidence.key_hash:016x}",
        "program": program,
        "outcome": outcome,
        "ms": round(ms, 3),
    }
    if is_cold:
        line["cold"] = True
    if cost:
        line["cost"] = cost
    if evidence.attempts:
        line["attempts"] = evidence.attempts
    return line
