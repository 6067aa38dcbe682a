"""`/pools/reload` and `/pools/{version}/reload`: other code for the workers, and the way back."""

from typing import Self

from pydantic import Field, model_validator

from app.access.auth import Operator, Principal
from app.api.base import In, Router
from app.api.pools import PoolView, list_pools, require_pool, show_pool
from app.openapi.document import raises
from app.positions.new_code import ProgramsWouldBreak
from app.positions.reload import Asked
from app.problems import Problem
from app.replicas.acts import NotEverywhere, reload_everywhere
from app.services import Running
from pools.errors import NoPreviousCode, SpawnFailed
from routing.versions import Version

router = Router(prefix="/pools", tags=["pools"])

_REFUSALS = ("load_failed", "plan_conflict", "rollback_impossible", "pool_closed")


class ReloadBody(In):
    """A reload: the code that it brings, and how far it may go."""

    previous: bool = Field(False, description="Brings the code before the last reload back, whatever is on disk")
    force: bool = Field(
        False, description="Takes code that breaks programs, and reloads both pools amid a ramp; needs a reason"
    )
    reason: str | None = Field(None, max_length=1024)

    @model_validator(mode="after")
    def _force_has_a_reason(self) -> Self:
        if self.force and not (self.reason or "").strip():
            raise ValueError("force needs a reason")
        return self


def _asked(body: ReloadBody | None, operator: Principal) -> Asked:
    body = body or ReloadBody()
    return Asked(
        by=operator.name,
        reason=body.reason,
        is_previous=body.previous,
        is_forced=body.force,
        may_break_programs=body.force,
    )


def problem_of_reload(error: SpawnFailed | NoPreviousCode) -> Problem:
    """Says why the workers of a pool keep their code."""
    if isinstance(error, NoPreviousCode):
        return Problem("rollback_impossible", str(error))
    if isinstance(error, NotEverywhere):
        return Problem("load_failed", f"not all replicas have the code: {error}")
    broken = error.broken if isinstance(error, ProgramsWouldBreak) else ()
    programs = [{"program_id": one.program_id, "reason": one.reason} for one in broken]
    extensions = {"programs": programs} if programs else {}
    return Problem("load_failed", f"the workers keep their code: {error}", extensions=extensions)


@router.post("/reload", openapi_extra=raises(*_REFUSALS))
async def reload_pools(services: Running, operator: Operator, body: ReloadBody | None = None) -> list[PoolView]:
    """Replaces the workers of all pools, as the reload of one pool does; answers when it is done.

    While V2 has some of the traffic and not all, or a plan is under way, it takes `force`: V1 is what a rollback goes
    to. A pool that cannot be reloaded keeps no other from it. All replicas of the machine reload: first the one that is
    asked, then the others; `load_failed` names those that keep their code.
    """
    try:
        await reload_everywhere(services, None, _asked(body, operator))
    except (SpawnFailed, NoPreviousCode) as error:
        raise problem_of_reload(error) from None
    return await list_pools(services, operator)


@router.post("/{version}/reload", openapi_extra=raises(*_REFUSALS))
async def reload_pool(
    version: Version, services: Running, operator: Operator, body: ReloadBody | None = None
) -> PoolView:
    """Replaces the workers, one after another, by workers with the code that is on disk; answers when it is done.

    No call is lost. A worker that is at a call is replaced after it. Before that, the programs are loaded with the new
    code. If modules or programs cannot be loaded that could be before, the workers stay as they are, unless `force`
    is set. With `previous` the code from before the last reload comes back, whatever is on disk.
    """
    require_pool(version, services)
    try:
        await reload_everywhere(services, version, _asked(body, operator))
    except (SpawnFailed, NoPreviousCode) as error:
        raise problem_of_reload(error) from None
    return await show_pool(version, services, operator)
