"""A plan: the steps of a ramp, and what the evidence may do to it."""

import itertools
from decimal import Decimal
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from analysis.guardrails import GUARDRAILS, Action, Config, InvalidConfig
from config import mounted_file
from routing.errors import InvalidPlan
from routing.rollout.coverage import MIN_CALLS
from routing.rollout.model import to_basis_points

MAX_STEPS = 64
MAX_PLAN_BYTES = 64 * 1024
"""YAML takes 7 s per MiB, so a plan is far smaller than other bodies."""
DEFAULT_MIN_CALLS = 100
"""A step without a minimum of its own waits for this many calls, so that silence promotes nothing."""

OnInconclusive = Literal["hold", "advance", "rollback"]


def _whole_basis_points(percent: float) -> float:
    to_basis_points(Decimal(str(percent)))
    return percent


Percent = Annotated[float, Field(gt=0, le=100, allow_inf_nan=False), AfterValidator(_whole_basis_points)]
BackTo = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False), AfterValidator(_whole_basis_points)]
ManualItem = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f/]+$")]
Seconds = Annotated[float, Field(ge=0, le=31_536_000, allow_inf_nan=False)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PlanStep(_Part):
    """One share of the traffic for V2, and the conditions for leaving it upwards."""

    percent: Percent = Field(description="Share of V2, above 0, in steps of 0.01")
    hold_s: Seconds = Field(description="Seconds to stay at the least")
    min_calls: int = Field(DEFAULT_MIN_CALLS, ge=0, le=10**12, description="Organic calls of both versions to wait for")
    approval: bool = Field(False, description="A person must approve before the next step")

    @property
    def basis_points(self) -> int:
        """The share in hundredths of a percent."""
        return to_basis_points(Decimal(str(self.percent)))


class GuardrailPlan(_Part):
    """Another consequence for a guardrail than the usual one."""

    action: Literal["rollback", "pause", "observe"] | None = Field(None, description="null is the usual one")
    share: float | None = Field(None, gt=0, le=1, description="Of alpha, for a guardrail that rolls back")
    promotes: bool = Field(
        False, description="Promotion waits for evidence that V2 is not worse; for `quality`, which it does not else"
    )
    back_to: BackTo | None = Field(
        None, description="V2's share once this guardrail has paused the ramp, if that is less than the step's"
    )


class CoveragePlan(_Part):
    """The programs that V2 must have run before a promotion."""

    programs: float = Field(0.95, gt=0, le=1, description="Share of the programs with traffic in the last 24 h")
    min_calls: int = Field(MIN_CALLS, ge=1, le=10**6, description="Calls or shadow copies of each of them on V2")


class AfterPlan(_Part):
    """The watch over V2 after its promotion."""

    watch_s: float = Field(
        86_400.0, ge=60, le=31_536_000, description="Seconds in which a false alarm has a probability of 1 % at most"
    )
    action: Literal["alert", "rollback"] = Field("alert", description="`rollback` is for these seconds alone")


class Plan(_Part):
    """A ramp that goes on by itself while nothing speaks against V2."""

    name: str = Field("ramp", min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f]+$")
    steps: tuple[PlanStep, ...] = Field(max_length=MAX_STEPS)
    guardrails: dict[str, GuardrailPlan] = Field(default_factory=dict)
    manual: tuple[ManualItem, ...] = Field(
        default_factory=tuple, max_length=20, description="Items of the migration's checklist that a person confirms"
    )
    on_inconclusive: OnInconclusive = Field(
        "hold", description="The consequence if evidence for or against V2 has not come after `max_wait_s`"
    )
    max_wait_s: Seconds | None = Field(None, description="Seconds to wait for evidence or calls once the hold is over")
    guard: bool = Field(
        True,
        description="Evidence against V2 rolls a paused ramp back, too; `off` leaves that to the person who paused",
    )
    coverage: CoveragePlan | None = Field(
        None, description="Promotion waits until V2 has run so many of the programs; null waits for none"
    )
    after: AfterPlan = Field(default_factory=AfterPlan, description="The watch over V2 after its promotion")
    fault_margin: float = Field(1.0, ge=1, le=10, description="V2 may have this many times V1's faults")
    latency_floor_ms: float = Field(
        5.0,
        ge=0,
        le=60_000,
        allow_inf_nan=False,
        description="Added to every call's time before versions are compared: much smaller differences do not matter",
    )
    latency_margin: float = Field(1.0, ge=1, le=10, description="V2 may take this many times V1's time")
    cost_margin: float = Field(1.0, ge=1, le=100, description="V2's calls may cost this many times V1's")

    @model_validator(mode="after")
    def _rises(self) -> Self:
        percents = [step.percent for step in self.steps]
        if not percents:
            raise ValueError("steps: a plan needs one at least")
        if any(later <= earlier for earlier, later in itertools.pairwise(percents)):
            raise ValueError("the percentages of the steps must rise")
        if percents[0] >= 100:
            raise ValueError("a plan needs a step below 100, at which both versions can be compared")
        if self.on_inconclusive != "hold" and self.max_wait_s is None:
            raise ValueError(f"on_inconclusive: {self.on_inconclusive} needs max_wait_s")
        self._check_back_to(self.judge_config(1))
        return self

    def _check_back_to(self, config: Config) -> None:
        pausing = {one.name for one in config.guardrails if one.action is Action.PAUSE}
        if others := sorted(
            name for name, one in self.guardrails.items() if one.back_to is not None and name not in pausing
        ):
            raise ValueError(f"guardrails: back_to is for one that pauses, which {others[0]} does not")

    def back_to(self, guardrail: str | None) -> int | None:
        """V2's share after a pause by `guardrail`, in hundredths of a percent; None leaves it as it is."""
        plan = self.guardrails.get(guardrail or "")
        return None if plan is None or plan.back_to is None else to_basis_points(Decimal(str(plan.back_to)))

    def judge_config(self, programs: int, *, is_lm_on_trial: bool = False) -> Config:
        """The judge's settings under this plan; `programs` is how many the service has.

        If V2 has another LM than V1, `upstream` rolls back, unless the plan has a word on it.

        Raises:
            ValueError: a guardrail is unknown, or the shares of those that roll back add up to more than 1.
        """
        shares = {one.name: one.share for one in GUARDRAILS}
        actions = {
            name: (Action(one.action), _share(one, shares.get(name, 0.0)))
            for name, one in self.guardrails.items()
            if one.action is not None
        }
        try:
            config = Config(
                steps=tuple(step.basis_points / 10_000 for step in self.steps),
                r0=self.fault_margin,
                m0=self.latency_margin,
                c0=self.cost_margin,
                programs=max(1, min(programs, 256)),
            )
            config = config.with_actions(actions)
            config = config.with_promotion([name for name, one in self.guardrails.items() if one.promotes])
            return config.with_lm_on_trial() if is_lm_on_trial and "upstream" not in actions else config
        except InvalidConfig as error:
            raise ValueError(str(error)) from None

    @property
    def last_step(self) -> int:
        """Index of the last step at which V1 still gets calls: the one that is left for 100 %."""
        return max(index for index, step in enumerate(self.steps) if step.percent < 100)


def _share(one: GuardrailPlan, usual: float) -> float:
    if one.action != "rollback":
        return 0.0
    return usual if one.share is None else one.share


def parse_plan(content: bytes) -> Plan:
    """The plan that a file holds, as YAML or JSON.

    Raises:
        InvalidPlan: says where it makes no sense.
    """
    if len(content) > MAX_PLAN_BYTES:
        raise InvalidPlan(f"a plan has at most {MAX_PLAN_BYTES} bytes, got {len(content)}")
    try:
        document: Any = mounted_file.parse(content)
        return Plan.model_validate(document)
    except ValidationError as error:
        raise InvalidPlan(mounted_file.problems(error, tells_names=True)) from None
    except mounted_file.InvalidDocument as error:
        raise InvalidPlan(str(error)) from None
