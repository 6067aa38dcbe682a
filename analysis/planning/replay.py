"""Replay: judges a recorded ramp as the live judge would have."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from analysis.guardrails import Action, Config
from analysis.judge import Judge
from analysis.verdict import Detectable, Evidence, Row, Tally, Verdict

STRAGGLERS = 100
"""A trace may be sorted by the ends of calls: so many calls in a row of earlier steps do not mean a ramp that falls."""
MAX_PROGRAMS = 256
_NO_SHARE = 1e-12


class Recorded(Protocol):
    """A call of a trace."""

    @property
    def t(self) -> float: ...
    @property
    def w(self) -> float: ...
    @property
    def arm(self) -> str: ...
    @property
    def key(self) -> str | None: ...
    @property
    def program(self) -> str: ...
    @property
    def outcome(self) -> str: ...
    @property
    def ms(self) -> float | None: ...
    @property
    def cold(self) -> bool: ...
    @property
    def attempts(self) -> tuple[str, ...]: ...
    @property
    def cost(self) -> float | None: ...


@dataclass(frozen=True, slots=True)
class FedEvidence:
    """The answer of a guardrail that is fed, from a moment on: shadow calls and scores are no calls of a trace."""

    t: float
    action: str
    evidence: Evidence
    not_worse: Evidence | None


@dataclass(frozen=True, slots=True)
class Change:
    """A verdict that is new, and the call after which the judge came to it."""

    call: int
    t: float
    verdict: Verdict


class Replay:
    """One trace: the first pass reads what a plan would have said, the second judges.

    A trace has no plan. Its canary probabilities, in increasing order, stand for the plan's steps; the highest below 1
    is the last step, on which promotion is possible. The number of programs stands for the catalogue's.
    """

    def __init__(
        self,
        steps: Iterable[float],
        programs: int,
        config: Config,
        fed: Mapping[str, str] | None = None,
        promotes: Collection[str] = (),
    ) -> None:
        """Takes as `fed` the actions of the guardrails that the trace has evidence of.

        Promotion waits for those in `promotes`, too.

        Raises:
            ValueError: a guardrail or an action is unknown.
        """
        planned = tuple(sorted(set(steps)))
        # Their thresholds stand in the trace, so that the share of alpha plays no part.
        config = config.with_actions({name: (Action(action), _NO_SHARE) for name, action in (fed or {}).items()})
        config = config.with_promotion(promotes)
        self._config = replace(
            config, steps=planned, programs=min(max(programs, 1), MAX_PROGRAMS), stragglers=STRAGGLERS
        )
        self.judge = Judge(self._config)
        self.calls = 0
        self._t = 0.0
        self._hashes: dict[str, int] = {}

    def changes(self, calls: Iterable[Recorded | FedEvidence]) -> Iterator[Change]:
        """Feeds the calls to the judge and yields each change of the verdict."""
        judge = self.judge
        said = judge.verdict.action, judge.verdict.guardrail
        for call in calls:
            self._t = call.t
            if self._take(call) or judge.is_due(call.t):
                verdict = judge.look(call.t)
                if (verdict.action, verdict.guardrail) != said:
                    said = verdict.action, verdict.guardrail
                    yield Change(self.calls, call.t, verdict)

    def end(self) -> Change:
        """Returns the verdict after the last call."""
        return Change(self.calls, self._t, self.judge.look(self._t))

    def rows(self) -> tuple[Row, ...]:
        """Returns each guardrail's evidence."""
        return self.judge.analysis()

    def _take(self, line: Recorded | FedEvidence) -> bool:
        if not isinstance(line, FedEvidence):
            self.calls += 1
            return self._feed(line)
        evidence, nothing = line.evidence, Tally(0, 0)
        row = Row(
            evidence.guardrail,
            line.action,
            evidence.log_e,
            evidence.threshold,
            nothing,
            nothing,
            (0.0, None),
            evidence.stratum,
            Detectable(2.0, None, None),
        )
        self.judge.feed(evidence, row, line.not_worse)
        return True

    def _feed(self, call: Recorded) -> bool:
        """Feeds one call; returns True if the moment to look has come."""
        key = call.key
        key_hash = None if key is None else self._hashes.get(key)
        if key is not None and key_hash is None:
            key_hash = self._hashes[key] = hash64(key)
        judge = self.judge
        judge.assigned(call.t, call.w, call.arm, key_hash)
        has_event = False
        for code in call.attempts:
            has_event |= judge.attempt_failed(call.t, call.w, call.arm, key_hash, call.program, code) is not None
        ms = -1.0 if call.ms is None else call.ms  # a negative latency is none
        event = judge.ended(
            call.t, call.w, call.arm, key_hash, call.program, call.outcome, ms, is_cold=call.cold, cost=call.cost
        )
        return has_event or event is not None


def hash64(text: str) -> int:
    """A 64-bit hash of a key, the same in every process (FNV-1a with splitmix64's finish)."""
    hashed = 0xCBF29CE484222325
    for byte in text.encode():
        hashed = ((hashed ^ byte) * 0x100000001B3) & (2**64 - 1)
    hashed = ((hashed ^ (hashed >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    return hashed ^ (hashed >> 31)
