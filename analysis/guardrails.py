"""The table of guardrails: each one's action, its part of α and its margins."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

GUARDRAIL_OF: Final[dict[str, str]] = {
    "worker_crashed": "engine",
    "execution_timeout": "engine",
    "program_quarantined": "engine",
    "internal_error": "engine",
    "program_error": "program",
    "invalid_outputs": "program",
    "load_failed": "program",
    "load_timeout": "program",
    "lm_error": "upstream",
    "pool_overloaded": "capacity",
    "checkout_timeout": "capacity",
}
"""Error codes that judge a version. All others are client errors, or nobody's: they judge nothing."""

OF_THE_VERSION: Final = frozenset({"engine", "program", "capacity"})
"""Guardrails whose faults are the version's own doing, whoever else runs: those of the language model are not."""
LM_SHARE: Final = 0.1
"""The share of α that `upstream` has if V2's LM is on trial; the guardrails that roll back anyway share the rest."""
QUALITY: Final = "quality"
OVER_P99: Final = "over_p99"
OVER_3_P99: Final = "over_3_p99"
BUSY: Final = 0.05
"""The share of a step's calls from which a program must be shown not to be slower; rarer ones are named."""
OTHER_PROGRAMS: Final = "(others)"
"""The programs beyond those with a stratum each."""
SHARE_OF_OTHERS: Final = 0.01
"""Weight of these, as a share of all programs' weight."""


class Action(StrEnum):
    """The consequence of a guardrail's evidence."""

    ROLLBACK = "rollback"
    PAUSE = "pause"
    OBSERVE = "observe"


class Kind(StrEnum):
    """The test behind a guardrail."""

    FAULTS = "faults"
    LATENCY = "latency"
    SPLIT = "split"
    COST = "cost"
    FED = "fed"
    """Another part of the service computes the e-process and feeds its logarithm to the judge."""


@dataclass(frozen=True)
class Guardrail:
    """One question about V2, the action if the answer is bad, and the share of α that the answer may use.

    `share` is of the judge's α if the guardrail rolls back; otherwise the guardrail has `Config.pause_alpha`.
    `by_code` and `by_program` are weights of the strata; the pooled stratum has the rest.
    """

    name: str
    kind: Kind
    action: Action
    share: float = 0.0
    by_code: Mapping[str, float] = field(default_factory=dict)
    by_program: float = 0.0
    margin: float = 2.0
    """Promotion needs evidence that V2 is not worse than V1 by this ratio."""
    program_margin: float | None = None
    """Promotion needs evidence of each busy program by this ratio, too; None asks for none."""
    promotes: bool = False
    """Promotion waits for this guardrail's evidence of non-inferiority."""

    @property
    def pooled(self) -> float:
        """Weight of the stratum of all events."""
        return 1.0 - sum(self.by_code.values()) - self.by_program

    def weight_of(self, program: str, programs: int) -> float:
        """Weight of a program's stratum, if so many have one."""
        share = SHARE_OF_OTHERS if program == OTHER_PROGRAMS else (1 - SHARE_OF_OTHERS) / programs
        return self.by_program * share


def codes_of(name: str) -> tuple[str, ...]:
    """Returns the codes that a guardrail counts as faults.

    Raises:
        ValueError: the guardrail does not judge faults.

    """
    codes = tuple(code for code, guardrail in GUARDRAIL_OF.items() if guardrail == name)
    if not codes:
        known = ", ".join(sorted(set(GUARDRAIL_OF.values())))
        raise ValueError(f"{name} does not judge faults: these do: {known}")
    return codes


_ENGINE_CODES = codes_of("engine")

GUARDRAILS: Final = (
    Guardrail(
        "engine", Kind.FAULTS, Action.ROLLBACK, 0.65, dict.fromkeys(_ENGINE_CODES, 0.02), 0.07, 2.0, promotes=True
    ),
    Guardrail("program", Kind.FAULTS, Action.ROLLBACK, 0.11, {}, 0.5, 2.0, promotes=True),
    Guardrail("latency", Kind.LATENCY, Action.ROLLBACK, 0.12, {}, 0.2, margin=1.25, program_margin=1.5, promotes=True),
    Guardrail(
        "tail",
        Kind.FAULTS,
        Action.ROLLBACK,
        0.12,
        {OVER_3_P99: 0.4},
        0.2,
        margin=2.0,
        program_margin=2.0,
        promotes=True,
    ),
    Guardrail("upstream", Kind.FAULTS, Action.PAUSE),
    Guardrail("capacity", Kind.FAULTS, Action.PAUSE),
    Guardrail("srm", Kind.SPLIT, Action.PAUSE),
    Guardrail("shadow", Kind.FED, Action.PAUSE),
    Guardrail(QUALITY, Kind.FED, Action.PAUSE),
    Guardrail("cost", Kind.COST, Action.PAUSE),
)


class InvalidConfig(ValueError):
    """A configuration that would break the judge's guarantee."""


@dataclass(frozen=True)
class Config:
    """The judge's settings. The defaults are those that the figures in docs/judge.md were measured with."""

    guardrails: tuple[Guardrail, ...] = GUARDRAILS
    steps: tuple[float, ...] = ()
    """The plan's canary probabilities, if there is a plan. Promotion is possible on the last one below 1 only."""
    alpha: float = 0.01
    pause_alpha: float = 0.001
    promotion_alpha: float = 0.05
    r0: float = 1.0
    """V2 may have this many times V1's faults."""
    m0: float = 1.0
    """V2 may take this many times V1's milliseconds."""
    c0: float = 1.0
    """V2's calls may cost this many times V1's."""
    floor: float = 0.002
    """Promotion does not ask for a ratio if V2's faults are rarer than this share of calls."""
    programs: int = 64
    """Programs that have a stratum each, at most 256; events of all others share one. Fixed before the ramp begins."""
    stragglers: int = 0
    """Calls in a row with an earlier step's probability that do not yet mean that the ramp has fallen."""
    shard: int = 0
    shards: int = 1
    """Replicas that share the keys of latency, tail and split."""

    def __post_init__(self) -> None:
        if self.total_share > 1 + 1e-9:
            raise InvalidConfig(f"the shares of the guardrails that roll back add up to {self.total_share:.4g}, over 1")
        if any(one.action is Action.ROLLBACK and one.share <= 0 for one in self.guardrails):
            raise InvalidConfig("a guardrail that rolls back needs a share of alpha above 0")
        if min(self.r0, self.m0, self.c0) < 1 or not 0 < self.alpha < 1 or not 1 <= self.programs <= 256:
            raise InvalidConfig("r0, m0 and c0 are at least 1, alpha is between 0 and 1, programs between 1 and 256")

    @property
    def total_share(self) -> float:
        """The part of α that the guardrails which roll back use together."""
        return sum(one.share for one in self.guardrails if one.action is Action.ROLLBACK)

    @property
    def last_step(self) -> float | None:
        """The step on which promotion is possible: the plan's highest at which V1 still gets calls."""
        return max((w for w in self.steps if 0 < w < 1), default=None)

    def alpha_of(self, guardrail: Guardrail) -> float:
        """The probability of a false alarm that a guardrail may use."""
        return self.alpha * guardrail.share if guardrail.action is Action.ROLLBACK else self.pause_alpha

    def with_actions(self, actions: Mapping[str, tuple[Action, float]]) -> "Config":
        """Returns a configuration in which some guardrails have another action and share."""
        unknown = sorted(set(actions) - {one.name for one in self.guardrails})
        if unknown:
            known = ", ".join(one.name for one in self.guardrails)
            raise InvalidConfig(f"no guardrail is called {', '.join(unknown)}; there are {known}")
        changed = [
            replace(one, action=actions[one.name][0], share=actions[one.name][1]) if one.name in actions else one
            for one in self.guardrails
        ]
        return replace(self, guardrails=tuple(changed))

    def with_promotion(self, names: Collection[str]) -> "Config":
        """Returns a configuration whose promotion waits for the evidence of these guardrails, too.

        A guardrail that is fed must be fed with evidence of non-inferiority, which `quality` alone has.
        """
        if others := sorted(set(names) - {QUALITY}):
            raise InvalidConfig(f"promotes: {QUALITY} alone can be waited for beside the usual ones, not {others[0]}")
        changed = [replace(one, promotes=one.promotes or one.name in names) for one in self.guardrails]
        return replace(self, guardrails=tuple(changed))

    def with_lm_on_trial(self) -> "Config":
        """Returns a configuration for a V2 with another LM than V1's, which `upstream` then judges like an engine.

        The other guardrails that roll back give up a tenth of their shares of α, so that no plan's shares exceed 1.
        """
        changed = [replace(one, share=one.share * (1 - LM_SHARE)) for one in self.guardrails]
        judged = [
            replace(one, action=Action.ROLLBACK, share=LM_SHARE, promotes=True) if one.name == "upstream" else one
            for one in changed
        ]
        return replace(self, guardrails=tuple(judged))
