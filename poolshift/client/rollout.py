"""The rollout's flag: `/rollout`, its rollback and its history."""

from datetime import datetime

import msgspec

from poolshift.client.calls import Call, Listing, Page, encoded, get, members, post, reader


class Rollout(msgspec.Struct, frozen=True, kw_only=True):
    """The flag in force."""

    canary_percent: float
    revision: int
    source: str
    updated_at: datetime
    updated_by: str
    pool_version: str | None = None
    """The version that `POOL_VERSION` pins everything to."""
    shadow_percent: float = 0.0
    reason: str | None = None
    stale: bool = False
    missing_replicas: list[str] = []
    """The replicas of the machine that have not done what was asked of each, with the reason."""
    """True if everything goes to V1, since the replica has not reached the database for too long."""
    note: str | None = None
    """Why the flag's percentage is not what the calls get, and when it counts."""


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One change of the flag."""

    revision: int
    to_percent: float
    source: str
    updated_at: datetime
    updated_by: str
    from_percent: float | None = None
    shadow_percent: float = 0.0
    reason: str | None = None


class Unrotation(Rollout, frozen=True, kw_only=True):
    """The flag after a rotation was taken back, and what was changed since the rotation and stays."""

    kept_programs: list[str] = []
    """Programs that keep their newer definition."""
    kept_lm: bool = False
    """True if V1's language model was set since."""


def show() -> Call[Rollout]:
    """Reads the flag."""
    return get("/rollout", Rollout)


def change(
    canary_percent: float | None = None,
    *,
    shadow_percent: float | None = None,
    reason: str | None = None,
    expected_revision: int | None = None,
) -> Call[Rollout]:
    """Gives V2 its share of the traffic, or of copies of V1's calls, from the next call on.

    Raises:
        StaleRevision: the flag has another revision than the expected one.
    """
    content, headers = encoded(members(canary_percent=canary_percent, shadow_percent=shadow_percent, reason=reason))
    if expected_revision is not None:
        headers["if-match"] = f'"{expected_revision}"'
    return Call("PATCH", "/rollout", reader(Rollout), headers=headers, content=content)


def roll_back(*, reason: str | None = None, in_flight: str | None = None) -> Call[Rollout]:
    """Sends all traffic to V1, from the next call on. If the answer is lost, the client asks again.

    Calls that run on V2 finish there; with `in_flight="replay"` those of idempotent programs run again on V1.
    """
    return post("/rollout/rollback", Rollout, members(reason=reason, in_flight=in_flight), is_idempotent=True)


def rotate(*, reason: str | None = None, unproven: bool | None = None) -> Call[Rollout]:
    """Makes V2's specification V1's, and waits until V1's new workers serve; the next migration can begin.

    An admin rotates with `unproven=True`, and a reason, to a V2 that has not been tried.

    Raises:
        PlanConflict: V2 has not been tried, or the state of the rollout does not allow it.
    """
    return post("/rollout/rotate", Rollout, members(reason=reason, unproven=unproven))


def unrotate(*, reason: str | None = None, force: bool | None = None) -> Call[Unrotation]:
    """Takes the newest rotation back, and waits until V1's workers serve: V1 is what it was before, at 0 %.

    After a restart of the service an admin takes code that breaks programs with `force=True`, and a reason.

    Raises:
        PlanConflict: there is nothing to take back, or a plan is under way.
        LoadFailed: V1's code on disk does not load the programs.
    """
    return post("/rollout/unrotate", Unrotation, members(reason=reason, force=force))


def history(*, limit: int | None = None) -> Listing[Change]:
    """Lists the changes of the flag, the newest first."""
    return Listing("/rollout/history", Page[Change], limit)
