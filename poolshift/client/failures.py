"""Failed calls of a replica: `/failures`."""

from datetime import datetime

import msgspec

from poolshift.client.calls import Call, get


class FailureCount(msgspec.Struct, frozen=True, kw_only=True):
    """One error code with its failed calls since the start of the replica."""

    code: str
    category: str
    v1: int = 0
    v2: int = 0


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """One call that was answered with an error."""

    at: datetime
    pool_version: str
    code: str
    category: str
    program_id: str
    execution_id: str
    trace_id: str | None = None
    traced: bool = False
    """True if the service exports spans of the call."""
    detail: str | None = None
    """For admins alone."""


class Failures(msgspec.Struct, frozen=True, kw_only=True):
    """The failed calls of a replica."""

    since: datetime
    counts: list[FailureCount]
    items: list[Failure]
    missing_replicas: list[str] = []
    """The replicas of the machine that are missing, with the reason, such as `1: silent`."""


def newest(*, code: str | None = None, pool_version: str | None = None, limit: int | None = None) -> Call[Failures]:
    """Counts the failed calls of one replica, and lists the newest of each code and version (scope `observe`)."""
    return get("/failures", Failures, {"code": code, "pool_version": pool_version, "limit": limit})
