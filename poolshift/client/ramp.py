"""A ramp: its plan, its state, and the evidence that it goes by (`/rollout/plan`, `/rollout/status` and so on)."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from poolshift.client.calls import Call, Listing, Page, RawAnswer, encoded, get, members, nothing, post, reader


class PlanStep(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One share of the traffic for V2, and the conditions for leaving it upwards."""

    percent: float
    hold_s: float
    min_calls: int | None = None
    approval: bool = False


class GuardrailPlan(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Another consequence for a guardrail than the usual one."""

    action: str | None = None
    """`rollback`, `pause` or `observe`; None is the usual one."""
    share: float | None = None
    promotes: bool = False
    """Promotion waits for evidence that V2 is not worse; for `quality`, which it does not else."""
    back_to: float | None = None
    """V2's share in percent once this guardrail has paused the ramp."""


class CoveragePlan(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The programs that V2 must have run before a promotion. None is the service's default."""

    programs: float | None = None
    """Share of the programs with traffic in the last 24 h."""
    min_calls: int | None = None
    """Calls or shadow copies of each of them on V2."""


class AfterPlan(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The watch over V2 after its promotion. None is the service's default."""

    watch_s: float | None = None
    """Seconds in which a false alarm has a probability of 1 % at most."""
    action: str | None = None
    """`alert`, or `rollback` within these seconds."""


class Plan(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A ramp that goes on by itself while nothing speaks against V2. None is the service's default."""

    steps: list[PlanStep]
    name: str | None = None
    guardrails: dict[str, GuardrailPlan] | None = None
    on_inconclusive: str | None = None
    """`hold`, `advance` or `rollback`."""
    max_wait_s: float | None = None
    guard: bool | None = None
    """Evidence against V2 rolls a paused ramp back, too."""
    fault_margin: float | None = None
    latency_floor_ms: float | None = None
    latency_margin: float | None = None
    cost_margin: float | None = None
    coverage: CoveragePlan | None = None
    after: AfterPlan | None = None
    """Promotion waits until V2 has run so many of the programs."""
    manual: list[str] | None = None
    """Items of the migration's checklist that a person confirms."""


class Split(msgspec.Struct, frozen=True, kw_only=True):
    """The split asked for, and the one seen in organic calls since it came into force."""

    asked_percent: float
    v1: int
    v2: int
    seen_percent: float | None = None


class Replica(msgspec.Struct, frozen=True, kw_only=True):
    """One replica of the service."""

    id: str
    seen_at: datetime
    is_silent: bool
    rollout_revision: int
    split: Split
    replica: int | None = None
    """The number among those of the machine that has answered; None elsewhere."""


class Outstanding(msgspec.Struct, frozen=True, kw_only=True):
    """A guardrail that the promotion waits for, and when its evidence is likely if V2 is as good as V1."""

    guardrail: str
    calls: int | None = None
    """None if that is not to be foreseen."""
    seconds: float | None = None


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The ramp: what it does, what comes next, and what the evidence says."""

    state: str
    """`idle`, `ramping`, `waiting`, `paused`, `promoted`, `rolled_back` or `aborted`."""
    step: int
    """From 1; 0 before the first."""
    steps: int
    canary_percent: float
    next: str
    verdict: str
    since: datetime
    by: str
    in_force: bool
    split: Split
    replicas: list[Replica]
    silent: list[str] = []
    guardrail: str | None = None
    reason: str | None = None
    warning: str | None = None
    """`Advanced without evidence`, if that is how V2 was promoted."""
    promotion: list[Outstanding] = []
    """The guardrails that the promotion waits for, once the ramp is at its last step."""
    pin: str | None = None
    """The version that all calls are pinned to, so that no ramp moves anything."""
    shadow_percent: float = 0.0
    database: str | None = None
    """The failure of the replica's last write to the database, and since when; None while it can write."""
    missing_replicas: list[str] = []
    """The replicas of the machine that are missing, with the reason, such as `1: silent`."""


class Tally(msgspec.Struct, frozen=True):
    """One version's calls, and those that were faults."""

    calls: int
    faults: int


class Detectable(msgspec.Struct, frozen=True, kw_only=True):
    """The regression that would be found, and when; None is never in this ramp."""

    ratio: float
    calls: int | None = None
    seconds: float | None = None


class Until(msgspec.Struct, frozen=True, kw_only=True):
    """Further organic calls, and the time that they take at the present rate."""

    calls: int
    seconds: float | None = None


class Example(msgspec.Struct, frozen=True, kw_only=True):
    """An execution whose fault is part of the evidence."""

    execution_id: str
    code: str
    trace_id: str | None = None
    detail: str | None = None


class Guardrail(msgspec.Struct, frozen=True, kw_only=True):
    """One guardrail's evidence against V2."""

    name: str
    action: str
    log_e: float
    """Natural logarithm of the e-value; at the threshold the guardrail acts."""
    threshold: float
    v1: Tally
    v2: Tally
    ratio: tuple[float, float | None]
    """Always-valid interval of V2 over V1; None is no upper bound."""
    stratum: str = "all"
    finding: str = "unknown"
    """`against` V2, `suspected`, `alike` or `unknown`."""
    suspects: list[str] = []
    """Parts that speak against V2 so far, which may be chance."""
    until_shown: Until | None = None
    """When V2 is likely to be shown not to be worse by the margin, if it is as good as V1."""
    not_shown: list[str] = []
    """Programs of which this step does not show that V2 is not slower, for `latency` and `tail`."""
    detectable: Detectable | None = None
    examples: list[Example] = []


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """A verdict with the evidence that it was made on."""

    verdict: str
    at: datetime
    evidence: dict[str, Any]
    guardrail: str | None = None


class Trace(msgspec.Struct, frozen=True):
    """The calls that a replica's judge saw, as JSON lines for `poolshift judge replay`."""

    lines: bytes
    dropped: int
    """Older calls that the replica has no longer."""


def show_plan() -> Call[Plan]:
    """Reads the plan that is under way, or that the next start carries out.

    Raises:
        NotFound: there is no plan.
    """
    return get("/rollout/plan", Plan)


def set_plan(plan: Plan | Mapping[str, Any] | bytes) -> Call[Plan]:
    """Sets the plan that the next start carries out. Bytes are the content of a file in YAML or JSON.

    Raises:
        InvalidPlan: the plan makes no sense.
        PlanConflict: a plan is under way.
    """
    content = plan if isinstance(plan, bytes) else encoded(plan)[0]
    return Call("PUT", "/rollout/plan", reader(Plan), content=content, is_idempotent=True)


def clear_plan() -> Call[None]:
    """Forgets the plan; not while it is under way."""
    return Call("DELETE", "/rollout/plan", nothing, is_idempotent=True)


def start(*, reason: str | None = None, lower: bool | None = None) -> Call[Status]:
    """Begins the plan at its first step, with no evidence; `lower` if that takes a part of V2's share away."""
    return post("/rollout/start", Status, members(reason=reason, lower=lower))


def pause(*, reason: str | None = None) -> Call[Status]:
    """Stops the ramp where it is."""
    return _move("pause", reason)


def resume(*, reason: str | None = None) -> Call[Status]:
    """Goes on at the step that the ramp stopped at, in spite of the guardrail that paused it."""
    return _move("resume", reason)


def approve(*, reason: str | None = None, step: int | None = None) -> Call[Status]:
    """Lets the ramp leave a step that waits for a person's approval: `step`, from 1, or the current one."""
    return post("/rollout/approve", Status, members(reason=reason, step=step))


def promote(*, reason: str | None = None) -> Call[Status]:
    """Gives V2 everything without waiting for evidence."""
    return _move("promote", reason)


def abort(*, reason: str | None = None) -> Call[Status]:
    """Ends the plan, and sends all traffic to V1."""
    return _move("abort", reason)


def status() -> Call[Status]:
    """Reads the ramp's state."""
    return get("/rollout/status", Status)


def analysis() -> Call[list[Guardrail]]:
    """Reads the evidence, a row for each guardrail."""
    return get("/rollout/analysis", list[Guardrail])


def decisions(*, limit: int | None = None) -> Listing[Decision]:
    """Lists the verdicts, the newest first."""
    return Listing("/rollout/decisions", Page[Decision], limit)


def trace() -> Call[Trace]:
    """Exports the calls that one replica's judge saw (scope `admin`)."""
    return Call("GET", "/rollout/analysis/trace", _read_trace, is_idempotent=True)


def _move(what: str, reason: str | None) -> Call[Status]:
    return post(f"/rollout/{what}", Status, members(reason=reason))


def _read_trace(raw: RawAnswer) -> Trace:
    return Trace(raw.content, msgspec.convert(raw.headers["x-dropped-calls"], int, strict=False))
