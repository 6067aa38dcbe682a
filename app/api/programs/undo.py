"""`POST /programs/{id}/restore`: a deleted program comes back, or a program goes back to a former revision."""

import structlog
from fastapi import Response
from pydantic import Field

from app.access.auth import Executor, Principal
from app.api.base import MAX_REVISION, In, Router
from app.api.programs.changes import check_change, make_changes
from app.api.programs.check import try_definition
from app.api.programs.resource import (
    DEFINITION_PROBLEMS,
    ProgramId,
    ProgramView,
    SessionQuery,
    program_answer,
    sees_session,
)
from app.openapi.document import header, raises
from app.services import Running, Services
from routing.catalog.deleted_programs import taken
from routing.catalog.programs import NewProgram, ProgramChange, StoredProgram
from routing.catalog.revisions import Precondition

router = Router(prefix="/programs", tags=["programs"])
_log = structlog.stdlib.get_logger("poolshift.programs")


class RestoreBody(In):
    """The revision that is to be in force again."""

    revision: int | None = Field(
        None,
        ge=1,
        le=MAX_REVISION,
        description="A revision that `…/revisions` lists; without it a deleted program comes back as it was",
    )
    reason: str | None = Field(None, max_length=1024)


@router.post(
    "/{program_id}/restore",
    response_model=ProgramView,
    responses={200: {"headers": {"ETag": header("ETag")}}},
    openapi_extra=raises("program_not_found", "program_exists", "stale_revision", *DEFINITION_PROBLEMS),
)
async def restore_program(
    program_id: ProgramId,
    services: Running,
    executor: Executor,
    body: RestoreBody | None = None,
    session_id: SessionQuery = None,
) -> Response:
    """Brings a deleted program back with all of its revisions, while its grace period lasts (`PROGRAM_GRACE_S`).

    With a `revision`, the definition of that one is in force, as a new revision; it is loaded once before, as any
    change. A program that is there goes back to a revision of its own so.
    """
    revision = body.revision if body else None
    is_seen = await sees_session(session_id, services, executor)
    found = await services.programs.find(program_id, session_id) if is_seen else None
    if found is not None:
        stored = await _put_back(found, revision, services, executor)
    elif is_seen:
        stored = await _undelete(program_id, session_id, revision, services, executor)
    else:
        raise await services.programs.missing(program_id, session_id)
    reason = body.reason if body else None
    _log.info("program restored", program_id=program_id, by=executor.name, revision=revision, reason=reason)
    return program_answer(stored)


async def _put_back(found: StoredProgram, revision: int | None, services: Services, by: Principal) -> StoredProgram:
    """Gives a program that is there the definition of a former revision."""
    if revision is None:
        raise taken(found.program.id)
    found.check_editor(by.editor)
    definition = await services.deleted_programs.definition(found, revision)
    new = NewProgram(found.program.id, found.session_id, definition, by.editor)
    change = ProgramChange(new, Precondition(revision=found.program.revision))
    (result,) = await make_changes([await check_change(change, services, by)], services, by)
    return result.stored


async def _undelete(
    program_id: str, session_id: str | None, revision: int | None, services: Services, by: Principal
) -> StoredProgram:
    """Brings a deleted program back; at another revision than its last one, that is loaded first."""
    deleted = (await services.deleted_programs.find(program_id, session_id)).program
    deleted.check_editor(by.editor)
    new = None
    if revision not in (None, deleted.program.revision):
        definition = await services.deleted_programs.definition(deleted, revision)
        deleted.check_editor(by.editor, definition)
        new = NewProgram(program_id, session_id, await try_definition(definition, services), by.editor)
    return await services.deleted_programs.restore(deleted, new)
