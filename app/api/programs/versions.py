"""V2's own definition of a program: `PUT …?pool_version=v2` gives it, `POST …/promote` makes it everyone's."""

import dataclasses
from datetime import UTC, datetime

from fastapi import Response

from app.access.auth import Executor, Principal
from app.api.base import Router
from app.api.preconditions import IfMatch, expected_revision
from app.api.programs.check import try_definition
from app.api.programs.resource import (
    DEFINITION_PROBLEMS,
    ProgramId,
    ProgramView,
    SessionQuery,
    own_view,
    program_answer,
    visible_session,
)
from app.openapi.document import header, raises
from app.problems import Problem
from app.services import Running, Services
from pools.calls import Program
from routing.catalog.compatibility import ensure_compatible
from routing.catalog.definitions import encode_definition
from routing.catalog.own_definitions import OwnDefinition, nothing_of_its_own, nothing_to_try
from routing.catalog.programs import NewProgram, StoredProgram
from routing.catalog.revisions import Precondition
from routing.errors import StaleProgram
from routing.versions import Version

router = Router(prefix="/programs", tags=["programs"])


@router.post(
    "/{program_id}/promote",
    response_model=ProgramView,
    responses={200: {"headers": {"ETag": header("ETag")}}},
    openapi_extra=raises("program_not_found", "stale_revision", *DEFINITION_PROBLEMS),
)
async def promote_program(
    program_id: ProgramId,
    services: Running,
    executor: Executor,
    session_id: SessionQuery = None,
    if_match: IfMatch = None,
) -> Response:
    """Makes V2's own definition everyone's, as a new revision of the program. `If-Match` names V2's revision."""
    visible = await visible_session(session_id, services, executor.caller)
    found = await services.programs.show(program_id, visible)
    if found.v2 is None:
        raise nothing_of_its_own(program_id)
    if expected_revision(if_match) not in (None, found.v2_revision):
        raise StaleProgram(program_id, found.v2_revision)
    definition = found.v2.program.definition
    if not _are_equal(await try_definition(definition, services), definition):
        raise _told_otherwise()
    stored = await services.programs.promote_v2(found, executor.name)
    await services.ramp.restart_evidence(f"{executor.name} promoted V2's own definition of {program_id}")
    return program_answer(stored)


async def put_for_v2(
    new: NewProgram, condition: Precondition, services: Services, executor: Principal, *, is_dry_run: bool
) -> Response:
    """Gives V2 a definition of its own (201), or replaces the one that it has (200). V2's pool alone tries it."""
    before = await _before(new, condition, services, executor)
    if before.v2 is not None and is_same(before.v2.program, new):
        return program_answer(own_view(before))
    new = dataclasses.replace(new, definition=await try_definition(new.definition, services, Version.V2))
    if is_dry_run:
        return program_answer(own_view(await _preview(before, new, services)))
    stored, is_new = await services.programs.put_v2(new, condition)
    if stored.v2_revision != before.v2_revision:
        await services.ramp.restart_evidence(f"{executor.name} gave V2 a definition of its own of {new.id}")
    return program_answer(own_view(stored), is_new=is_new)


def is_same(before: Program, new: NewProgram) -> bool:
    """Compares definitions as JSON, since nothing else is stored of them."""
    return encode_definition(before.definition) == encode_definition(new.definition)


async def _before(new: NewProgram, condition: Precondition, services: Services, executor: Principal) -> StoredProgram:
    """Reads the program whose V2 is to have another definition; raises early what needs no trial."""
    is_visible = new.session_id is None or await services.sessions.sees(new.session_id, executor.caller)
    before = await services.programs.find(new.id, new.session_id) if is_visible else None
    if before is None:
        raise nothing_to_try(new.id, new.session_id)
    condition.check(new.id, None if before.v2 is None else before.v2_revision)
    return before


async def _preview(before: StoredProgram, new: NewProgram, services: Services) -> StoredProgram:
    """Returns the program as the change would make it."""
    await ensure_compatible(before.program.definition.signature, new.definition.signature)
    if before.v2 is not None and is_same(before.v2.program, new):
        return before
    services.programs.check_quotas_of_v2(new)
    program = Program(before.program.key, new.id, new.definition, before.v2_revision + 1, Version.V2)
    return dataclasses.replace(before, v2=OwnDefinition(program, datetime.now(UTC), new.created_by))


def _are_equal(one: object, other: object) -> bool:
    return encode_definition(one) == encode_definition(other)


def _told_otherwise() -> Problem:
    message = "the code of the two versions tells different signatures: give V2's definition one, then promote it"
    errors = [{"at": "signature", "message": message}]
    return Problem("invalid_request", message, extensions={"errors": errors})
