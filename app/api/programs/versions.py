"""V2's own definition of a program becomes everyone's (`POST …/promote`), and V2's own again (`POST …/demote`)."""

import structlog
from fastapi import Response
from pydantic import Field

from app.access.auth import Executor
from app.api.base import In, Router
from app.api.preconditions import IfMatch, expected_revision
from app.api.programs.check import try_definition
from app.api.programs.resource import (
    DEFINITION_PROBLEMS,
    ProgramId,
    ProgramView,
    SessionQuery,
    program_answer,
    program_to_change,
)
from app.api.ramp import ReasonBody
from app.openapi.document import header, raises
from app.problems import Problem, require_reason
from app.services import Running, Services
from routing.catalog.definitions import encode_definition
from routing.catalog.own_definitions import no_own_definition
from routing.errors import PlanConflict, StaleProgram
from routing.versions import Version

router = Router(prefix="/programs", tags=["programs"])
_log = structlog.stdlib.get_logger("poolshift.programs")


class PromoteBody(In):
    """A promotion of V2's own definition of a program."""

    force: bool = Field(False, description="Promotes it although V2 does not get all calls yet, or a plan is under way")
    reason: str | None = Field(None, max_length=1024, description="Why; `force` needs one")


@router.post(
    "/{program_id}/promote",
    response_model=ProgramView,
    responses={200: {"headers": {"ETag": header("ETag")}}},
    openapi_extra=raises("program_not_found", "stale_revision", "plan_conflict", *DEFINITION_PROBLEMS),
)
async def promote_program(
    program_id: ProgramId,
    services: Running,
    executor: Executor,
    body: PromoteBody | None = None,
    session_id: SessionQuery = None,
    if_match: IfMatch = None,
) -> Response:
    """Makes V2's own definition everyone's, as a new revision of the program. `If-Match` names V2's revision.

    V2 must get all calls, and no plan may be under way, unless `force` says that this is meant. `POST …/demote` is the
    undo.
    """
    body = body or PromoteBody()
    found = await program_to_change(program_id, session_id, services, executor)
    if found.v2 is None:
        raise no_own_definition(program_id)
    if expected_revision(if_match) not in (None, found.v2_revision):
        raise StaleProgram(program_id, found.v2_revision)
    definition = found.v2.program.definition
    found.check_editor(executor.editor, definition)
    _refuse_untried(body, services)
    if not _are_equal(await try_definition(definition, services), definition):
        raise _told_otherwise()
    _refuse_untried(body, services)  # a plan may have begun meanwhile
    told = f": {body.reason}" if body.reason else ""
    async with services.ramp.changing(lambda: f"{executor.name} promoted V2's own definition of {program_id}{told}"):
        stored = await services.programs.promote_v2(found, executor.name)
        why = {"force": body.force, "reason": body.reason}
        _log.info("V2's own definition is everyone's", program_id=program_id, by=executor.name, **why)
    return program_answer(stored)


@router.post(
    "/{program_id}/demote",
    response_model=ProgramView,
    responses={200: {"headers": {"ETag": header("ETag")}}},
    openapi_extra=raises("program_not_found", "rollback_impossible", "store_unavailable"),
)
async def demote_program(
    program_id: ProgramId,
    services: Running,
    executor: Executor,
    body: ReasonBody | None = None,
    session_id: SessionQuery = None,
) -> Response:
    """Undoes the last promotion: V1 has the definition that it had before, and V2 alone has the promoted one, on trial.

    It needs no evidence and loads nothing, as a rollback. It is refused if the program has changed since the promotion.
    """
    found = await program_to_change(program_id, session_id, services, executor)
    reason = body.reason if body else None
    told = f": {reason}" if reason else ""
    async with services.ramp.changing(lambda: f"{executor.name} took back the promotion of {program_id}{told}"):
        stored = await services.programs.demote(found, executor.name)
        _log.info("the promoted definition is V2's own again", program_id=program_id, by=executor.name, reason=reason)
    return program_answer(stored)


def _refuse_untried(body: PromoteBody, services: Services) -> None:
    """Refuses a definition for everyone that V2 has not run for everyone, unless that is meant and has a reason."""
    if body.force:
        require_reason("force", body.reason)
        return
    state, percent = services.ramp.ramp.state, _percent_of_v2(services)
    way_out = "or send `force: true` with a reason (`--force --reason`)"
    if state.is_under_way:
        raise PlanConflict(f"a plan is under way ({state}): await its end, {way_out}")
    if percent < 100:
        raise PlanConflict(f"V2 gets {percent:g} % of the calls: its definition is tried by all at 100 %, {way_out}")


def _percent_of_v2(services: Services) -> float:
    """Returns V2's share of the calls: a pin, or V2 alone, leaves nothing to the flag."""
    if services.pin is not None:
        return 100.0 if services.pin is Version.V2 else 0.0
    return services.flag.current.canary_percent if Version.V1 in services.pools else 100.0


def _are_equal(one: object, other: object) -> bool:
    return encode_definition(one) == encode_definition(other)


def _told_otherwise() -> Problem:
    message = "the code of the two versions tells different signatures: give V2's definition one, then promote it"
    errors = [{"at": "signature", "message": message}]
    return Problem("invalid_request", message, extensions={"errors": errors})
