"""The migration from V1 to V2: its phase, its checklist and its validations (`/migration`)."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Optional

import msgspec

from poolshift.client.calls import Call, encoded, get, members, post, reader, segment
from poolshift.client.ramp import Tally


class ChecklistItem(msgspec.Struct, frozen=True, kw_only=True):
    """An item of the checklist."""

    item: str
    state: str
    """`met`, `not_met` or `unknown`."""
    evidence: str
    how: str = ""
    """The command that gets it met."""


class ValidationState(msgspec.Struct, frozen=True, kw_only=True):
    """The newest validation."""

    at: datetime
    by: str
    is_current: bool
    """True if the pools that were validated are those that run now."""


class Use(msgspec.Struct, frozen=True, kw_only=True):
    """The calls of one version for one reason on one day."""

    day: str
    pool_version: str
    reason: str
    calls: int
    peak_per_minute: int = 0


class ServiceTimes(msgspec.Struct, frozen=True, kw_only=True):
    """The durations of one version's organic calls in the last days, in seconds."""

    pool_version: str
    calls: int
    mean_s: float
    """The mean time in the pool, without the wait for a worker."""
    variation: float
    """The squared coefficient of variation."""
    p99_s: float
    mean_wait_s: float
    longest_s: float = 0.0
    """Bound of the longest call, unless the service is too old to say it."""


class Pause(msgspec.Struct, frozen=True, kw_only=True):
    """The guardrail that has paused the ramp."""

    guardrail: str
    evidence: str
    """Figures with the e-value, and the program that they are mostly of."""
    v1: Tally
    v2: Tally
    log_e: float
    threshold: float
    executions: list[str] = []
    """Ids of executions that are part of the evidence."""


class ProgramRuns(msgspec.Struct, frozen=True, kw_only=True):
    """A program and its runs on the V2 that is on trial."""

    program_id: str
    calls: int
    """Organic calls."""
    copies: int
    """Shadow calls that have been compared."""


class Coverage(msgspec.Struct, frozen=True, kw_only=True):
    """The programs with traffic in the last 24 h, and those of them that V2 has run too rarely to be judged by."""

    programs: int
    min_calls: int
    """Calls and copies that are enough for a program."""
    never_run: list[str]
    copied: int
    """Programs with so many copies alone."""
    short: list[ProgramRuns]


class V2Faults(msgspec.Struct, frozen=True, kw_only=True):
    """V2's faults while it has all calls, and before."""

    now: Tally
    """In the last seconds, on the machine that has answered."""
    seconds: float
    at_promotion: Tally
    """At the last step that the calls were compared at."""


class Migration(msgspec.Struct, frozen=True, kw_only=True):
    """The position of the migration."""

    phase: str
    next: str
    """The one command that comes next; empty at the end."""
    checklist: list[ChecklistItem]
    against: list[str] = []
    """The objections to the next phase."""
    settings: list[str] = []
    """The settings that end V1, once nothing needs it."""
    pause: Pause | None = None
    """The evidence of the guardrail that has paused the ramp."""
    coverage: Coverage | None = None
    """None if the service is too old to say it."""
    v2_faults: V2Faults | None = None
    """None unless V2 has all calls."""
    canary_percent: float = 0.0
    shadow_percent: float = 0.0
    pools: str = ""
    """The identity of the pools that run; a validation belongs to one."""
    validation: ValidationState | None = None
    v1_sunset: datetime | None = None
    usage: list[Use] = []
    service_times: list[ServiceTimes] = []
    missing_replicas: list[str] = []
    """The replicas of the machine that are missing, with the reason, such as `1: silent`."""


class Validation(msgspec.Struct, frozen=True, kw_only=True):
    """A validation with its figures, and the one before it."""

    at: datetime
    by: str
    pools: str
    items: list[ChecklistItem]
    report: dict[str, Any] = {}
    before: Optional["Validation"] = None


def show() -> Call[Migration]:
    """Reads the phase, the checklist with its evidence, and what comes next (scope `observe`)."""
    return get("/migration", Migration)


def report() -> Call[Validation]:
    """Reads the newest validation with its figures (scope `observe`).

    Raises:
        NotFound: no validation has run.
    """
    return get("/migration/report", Validation)


def add_validation(
    pools: str, items: Sequence[Mapping[str, Any]], *, report: Mapping[str, Any] | None = None
) -> Call[Validation]:
    """Keeps the result of a validation (scope `admin`); `pools` is the identity of the pools that were validated."""
    return post("/migration/validations", Validation, {"pools": pools, "items": list(items), "report": report or {}})


def tick(item: str, *, note: str | None = None) -> Call[Migration]:
    """Confirms an item that no check can tell (scope `operate`)."""
    content, headers = encoded(members(note=note))
    path = f"/migration/items/{segment(item)}"
    return Call("PUT", path, reader(Migration), headers=headers, content=content, is_idempotent=True)


def untick(item: str) -> Call[Migration]:
    """Takes a confirmation back (scope `operate`)."""
    return Call("DELETE", f"/migration/items/{segment(item)}", reader(Migration), is_idempotent=True)
