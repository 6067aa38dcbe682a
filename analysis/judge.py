"""The judge: counts calls, and says on a look if the canary goes on."""

import math
from collections.abc import Callable
from typing import Final

from analysis.counters import Counters
from analysis.evidence import Bench
from analysis.guardrails import Action, Config, Kind
from analysis.intake import FELL, Intake
from analysis.published import rows
from analysis.replicas import KeyedFault
from analysis.verdict import Evidence, Row, Say, Verdict

LOOK_EVERY_S: Final = 1.0
_CALLS_A_LOOK: Final = 32
_RATE_OVER_S: Final = 60.0
_GRAVITY: Final = {Say.CONTINUE: 0, Say.PROMOTE: 1, Say.PAUSE: 2, Say.ROLLBACK: 3}
_SAY_OF: Final = {Action.ROLLBACK: Say.ROLLBACK, Action.PAUSE: Say.PAUSE}


class Judge:
    """Evidence on one ramp. The caller tells every organic call, and looks after V2's faults and each second.

    A ramp that falls begins again with no evidence. Calls at 0 % and 100 % are no evidence; forced calls must stay out.
    A malformed call is counted in `malformed` and judges nothing. `counters` are those of a judge before a restart.
    """

    _verdict: Verdict

    def __init__(self, config: Config | None = None, counters: Counters | None = None) -> None:
        self.config: Final = config if config is not None else Config()
        self.malformed = 0
        self._begin(counters if counters is not None else Counters(), 0.0)

    def __repr__(self) -> str:
        calls = sum(map(sum, self.counters.calls.values()))
        return f"Judge({self._verdict.action}, step {self.step}, w {self.w:g}, {calls} calls)"

    @property
    def counters(self) -> Counters:
        """Everything that the evidence is computed from."""
        return self._intake.counters

    @property
    def keyed(self) -> list[KeyedFault]:
        """Faults of keys that count on this replica."""
        return self._intake.keyed

    @property
    def step(self) -> int:
        """Index of the current step in `counters.steps`, -1 before the first call."""
        return self._intake.current

    @property
    def w(self) -> float:
        """The current step's canary probability, 0 before the first call."""
        return self.counters.steps[-1][0] if self.counters.steps else 0.0

    @property
    def verdict(self) -> Verdict:
        """The verdict of the last look."""
        return self._verdict

    def assigned(self, t: float, w: float, arm: str, key_hash: int | None) -> None:
        """Counts the assignment of a call to a version, for the check of the split; opens the ramp's next step."""
        try:
            if self._intake.assigned(w, arm, key_hash) == FELL:
                self.restart(t)
                self._intake.assigned(w, arm, key_hash)
        except (TypeError, ValueError):
            self.malformed += 1

    def assigned_at_step(self, v1: int, v2: int) -> None:
        """Counts so many assignments to each version, of calls without a key at the current step (see `w`)."""
        if v1 or v2:
            self._intake.assigned_at_step(v1, v2)

    def ended(
        self,
        t: float,
        w: float,
        arm: str,
        key_hash: int | None,
        program: str,
        outcome: str,
        ms: float,
        *,
        is_cold: bool = False,
        cost: float | None = 0.0,
    ) -> str | None:
        """Counts the end of a call; `w` is from its assignment, `cost` what its tokens cost in any unit.

        Returns the guardrail that has a new event of V2's, if any: the moment to look, and an example to keep.
        """
        self._ended += 1
        try:
            return self._intake.ended(t, w, arm, key_hash, program, outcome, ms, is_cold=is_cold, cost=cost)
        except (TypeError, ValueError):
            self.malformed += 1
            return None

    def attempt_failed(self, t: float, w: float, arm: str, key_hash: int | None, program: str, code: str) -> str | None:
        """Counts a fault that the caller never saw, since the call was tried again; or a fault of another replica.

        Returns what `ended` returns. The last attempt of a call is told by `ended` alone.
        """
        try:
            return self._intake.attempt_failed(t, w, arm, key_hash, program, code)
        except (TypeError, ValueError):
            self.malformed += 1
            return None

    def feed(self, evidence: Evidence, row: Row, not_worse: Evidence | None = None) -> None:
        """Takes the evidence and the row of an e-process computed elsewhere, for a guardrail of the kind `FED`.

        `not_worse` is the evidence that V2 is not worse, which a promotion may wait for.
        """
        self._fed[evidence.guardrail] = (evidence, row)
        if not_worse is not None:
            self._not_worse[evidence.guardrail] = not_worse

    def acknowledge(self, guardrail: str) -> None:
        """Lets the ramp go on although a guardrail has paused it: a person has decided so."""
        self._acknowledged.add(guardrail)

    def restart(self, t: float) -> None:
        """Begins again with no evidence: other code, another definition or another LM is another canary."""
        self._begin(Counters(), t)

    def is_due(self, t: float) -> bool:
        """Tells if a second has passed since the last look (or the clock has jumped back), and some calls have ended.

        A replay of little traffic would look after each call otherwise. New faults of V2 are due at once: see `ended`.
        """
        return self._ended >= _CALLS_A_LOOK and not 0 <= t - self._looked_at < LOOK_EVERY_S

    def look(self, t: float, others: Counters | None = None, *, bench: Bench | None = None) -> Verdict:
        """Returns the verdict at `t`, on the sum of the own counters and those of other replicas, or on `bench`.

        A rollback is final; a pause (until acknowledged) and a promotion last until something graver comes. A threshold
        that was crossed is evidence, even if the e-value falls again.
        """
        self._looked_at = t
        self._ended = 0
        self._note_rate(t)
        before = self._verdict
        if before.action is Say.ROLLBACK or not self.counters.steps:
            return before
        bench = bench if bench is not None else self._bench(others)
        said, evidence = self._say(bench)
        is_released = before.action is Say.PAUSE and before.guardrail in self._acknowledged
        if _GRAVITY[said] < _GRAVITY[before.action] and not is_released:
            return before
        guardrail = evidence.guardrail if said in (Say.PAUSE, Say.ROLLBACK) else None
        since = before.since if (said, guardrail) == (before.action, before.guardrail) else t
        is_new = said is Say.PROMOTE and before.action is not said
        not_shown = self._not_shown(bench) if is_new else before.not_shown if said is Say.PROMOTE else ()
        self._verdict = Verdict(said, guardrail, evidence.log_e, evidence.threshold, evidence.stratum, since, not_shown)
        return self._verdict

    def analysis(self, others: Counters | None = None) -> tuple[Row, ...]:
        """Returns a row for each guardrail. This takes some 10 ms: for pages and metrics, not for each call."""
        return rows(self._bench(others), {name: row for name, (_, row) in self._fed.items()}, self._rate)

    def analysis_of_now(self, others: Counters | None = None) -> Callable[[], tuple[Row, ...]]:
        """Copies the evidence, and returns a function that computes the rows from the copy, on any thread.

        Other replicas are taken to have as many calls per second, for each call that they have counted, as this one.
        """
        counters = self.counters.merge(others if others is not None else Counters())
        own, all_calls = (sum(map(sum, one.calls.values())) for one in (self.counters, counters))
        rate = None if self._rate is None or not own else self._rate * all_calls / own
        config, fed = self.config, {name: row for name, (_, row) in self._fed.items()}
        return lambda: rows(Bench(config, counters), fed, rate)

    def lacking(self) -> tuple[Evidence, ...]:
        """Returns the guardrails that promotion still waits for, on the own counters."""
        return (*self._intake.bench.lacking(self.step), *self._lacking_fed()) if self.counters.steps else ()

    def _lacking_fed(self) -> tuple[Evidence, ...]:
        threshold = -math.log(self.config.promotion_alpha)
        wanted = [one.name for one in self.config.guardrails if one.promotes and one.kind is Kind.FED]
        found = [self._not_worse.get(name, Evidence(name, 0.0, threshold)) for name in wanted]
        return tuple(one for one in found if not one.is_alarm)

    def bench_of_now(self, others: Counters) -> Callable[[], Bench]:
        """Copies the evidence, and returns a function that computes all of it from the copy, on any thread."""
        counters, config = self.counters.merge(others), self.config

        def compute() -> Bench:
            bench = Bench(config, counters)
            for one in config.guardrails:
                if one.kind is not Kind.FED:
                    bench.look(one)
            return bench

        return compute

    def evidence(self, others: Counters | None = None) -> tuple[Evidence, ...]:
        """Returns each guardrail's evidence, without intervals: cheap enough for metrics."""
        return tuple(self._every(self._bench(others)))

    def _every(self, bench: Bench) -> list[Evidence]:
        return [
            self._fed[one.name][0] if one.kind is Kind.FED else bench.look(one)
            for one in self.config.guardrails
            if one.kind is not Kind.FED or one.name in self._fed
        ]

    def _say(self, bench: Bench) -> tuple[Say, Evidence]:
        """The gravest word for which there is evidence, else the evidence that is nearest to its threshold."""
        every = self._every(bench)
        nearest = max(every, key=_excess)
        for action in (Action.ROLLBACK, Action.PAUSE):
            names = {one.name for one in self.config.guardrails if one.action is action} - self._acknowledged
            alarms = [one for one in every if one.is_alarm and one.guardrail in names]
            if alarms:
                return _SAY_OF[action], max(alarms, key=_excess)
        is_last = self.w == self.config.last_step
        if is_last and bench.is_not_worse(len(bench.counters.steps) - 1) and not self._lacking_fed():
            return Say.PROMOTE, nearest
        return Say.CONTINUE, nearest

    def _not_shown(self, bench: Bench) -> tuple[str, ...]:
        last = len(bench.counters.steps) - 1
        return tuple(sorted({name for one in self.config.guardrails for name in bench.not_shown(one, last)}))

    def _bench(self, others: Counters | None) -> Bench:
        return self._intake.bench if others is None else Bench(self.config, self.counters.merge(others))

    def _begin(self, counters: Counters, t: float) -> None:
        self._intake = Intake(self.config, counters)
        self._fed: dict[str, tuple[Evidence, Row]] = {}
        self._not_worse: dict[str, Evidence] = {}
        self._acknowledged: set[str] = set()
        self._looked_at = t - LOOK_EVERY_S
        self._ended = 0
        self._rate: float | None = None
        self._rated: tuple[float, int] | None = None
        self._verdict = Verdict(Say.CONTINUE, None, 0.0, 0.0, "all", t)

    def _note_rate(self, t: float) -> None:
        calls = sum(map(sum, self.counters.calls.values()))
        if self._rated is None or t < self._rated[0]:
            self._rated = (t, calls)
        elif t - self._rated[0] >= _RATE_OVER_S or (self._rate is None and t > self._rated[0]):
            self._rate = (calls - self._rated[1]) / (t - self._rated[0])
            if t - self._rated[0] >= _RATE_OVER_S:
                self._rated = (t, calls)


def _excess(evidence: Evidence) -> float:
    return evidence.log_e - evidence.threshold
