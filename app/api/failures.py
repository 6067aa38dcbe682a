"""`/failures`: the newest failed calls, by error code and version."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated

from fastapi import Query
from pydantic import Field

from app.access.auth import Observer
from app.api.base import Out, Router, Text
from app.problem_kinds import KINDS
from app.replicas.told import FAILURES, FailuresAsked
from app.replicas.views import whole_failures
from app.services import Running
from config.api_keys import Scope
from routing.telemetry.failures import Failure
from routing.versions import Version

router = Router(prefix="/failures", tags=["rollout"])


class FailureCount(Out):
    """One error code with its failed calls."""

    code: str
    category: str
    v1: int
    v2: int


class FailureView(Out):
    """One call that was answered with an error."""

    at: datetime
    pool_version: Version
    code: str
    category: str
    program_id: str
    execution_id: str
    trace_id: str | None
    traced: bool = Field(description="True if this service exports spans of the call")
    detail: str | None = Field(description="For admins alone")


class FailuresView(Out):
    """The failed calls of all replicas of this machine."""

    since: datetime = Field(description="The start of the replica that has run longest; each counts since its own")
    counts: list[FailureCount]
    items: list[FailureView]
    missing_replicas: list[str] = Field(
        description="Replicas of this machine whose failed calls are missing here, with the reason"
    )


@router.get("")
async def list_failures(
    services: Running,
    observer: Observer,
    code: Annotated[Text | None, Query(description="An error code; without it all")] = None,
    pool_version: Annotated[Version | None, Query(description="A version; without it both")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> FailuresView:
    """Counts failed calls by code and version, and lists the newest ones: at most 20 of each code and version."""
    answers = await services.machine.ask(FAILURES, FailuresAsked(code=code, version=pool_version, limit=limit))
    found = whole_failures(answers.all)
    is_admin = observer.may(Scope.ADMIN)
    return FailuresView(
        since=datetime.fromtimestamp(found.since, UTC),
        counts=failure_counts(found.counts),
        items=[failure_view(one, shows_detail=is_admin) for one in found.newest[:limit]],
        missing_replicas=answers.missing_replicas,
    )


def failure_counts(counts: Mapping[tuple[str, Version], int]) -> list[FailureCount]:
    """A row for each code that has occurred, the most frequent first."""
    codes = {code for code, _ in counts}
    rows = [
        FailureCount(
            code=code,
            category=KINDS[code].category,
            v1=counts.get((code, Version.V1), 0),
            v2=counts.get((code, Version.V2), 0),
        )
        for code in codes
    ]
    return sorted(rows, key=lambda row: (-row.v1 - row.v2, row.code))


def failure_view(failure: Failure, *, shows_detail: bool) -> FailureView:
    """Shows a failed call."""
    return FailureView(
        at=datetime.fromtimestamp(failure.at, UTC),
        pool_version=failure.version,
        code=failure.code,
        category=failure.category,
        program_id=failure.program_id,
        execution_id=failure.execution_id,
        trace_id=failure.trace_id,
        traced=failure.is_traced,
        detail=failure.detail if shows_detail else None,
    )
