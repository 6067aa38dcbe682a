"""`/programs/{id}/deletions`, `POST …/restore`: a deleted program comes back, or a program goes back to a revision."""

import itertools
from datetime import datetime
from typing import Annotated

import structlog
from fastapi import Query, Response
from pydantic import Field

from app.access.auth import Executor, Principal
from app.api.base import MAX_KEY, MAX_REVISION, In, Out, Page, Router, page_of
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
from routing.catalog.deleted_programs import DeletedPrograms, Deletion, taken
from routing.catalog.programs import NewProgram, ProgramChange, StoredProgram
from routing.catalog.revisions import Precondition
from routing.errors import ProgramExists

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
    deletion: int | None = Field(
        None,
        ge=1,
        le=MAX_KEY,
        description="The number of a deletion that `…/deletions` lists; without it the newest that the key may restore",
    )
    reason: str | None = Field(None, max_length=1024)


class DeletionView(Out):
    """The deletion of a program, which can be restored until it is final."""

    deletion: int = Field(description="Its number: `POST …/restore` takes it")
    session_id: str | None
    owner: str | None = Field(
        description="The owner whose keys may restore it, unless it was `shared`; null for everyone"
    )
    shared: bool = Field(description="Any key may restore it; if not, its owner's and those with the scope admin")
    revision: int = Field(description="The revision that was in force")
    deleted_at: datetime = Field(description="The time of the deletion")
    deleted_by: str | None = Field(description="The name of the key that deleted it")
    until: datetime = Field(description="It is final then (`PROGRAM_GRACE_S`)")


@router.get(
    "/{program_id}/deletions",
    openapi_extra=raises("program_not_found", "store_unavailable"),
)
async def list_deletions(
    program_id: ProgramId,
    services: Running,
    executor: Executor,
    session_id: SessionQuery = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Annotated[int | None, Query(ge=1, le=MAX_KEY, description="`next_cursor` of the page before")] = None,
) -> Page[DeletionView]:
    """Lists the deletions of programs of this id that the key may restore, the newest first.

    They are exactly those of a session, or global ones. There are several if the id was used again.
    """
    deleted = services.deleted_programs
    if not await sees_session(session_id, services, executor):
        raise await services.programs.missing(program_id, session_id)
    found = await deleted.listed(program_id, session_id, executor.editor)
    if cursor is not None:
        found = list(itertools.dropwhile(lambda one: one.number != cursor, found))[1:]
    return page_of(found[: limit + 1], limit, view=lambda one: _view(one, deleted), cursor=lambda one: one.number)


def _view(deletion: Deletion, deleted: DeletedPrograms) -> DeletionView:
    return DeletionView(
        deletion=deletion.number,
        session_id=deletion.session_id,
        owner=deletion.owner,
        shared=deletion.is_shared,
        revision=deletion.revision,
        deleted_at=deletion.deleted_at,
        deleted_by=deletion.deleted_by,
        until=deletion.until(deleted.grace_s),
    )


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

    It is the one of the newest deletion that the key may restore, or of the `deletion` that is named. With a
    `revision`, the definition of that one is in force, as a new revision; it is loaded once before, as any change. A
    program that is there goes back to a revision of its own so.
    """
    body = body or RestoreBody()
    revision = body.revision
    is_seen = await sees_session(session_id, services, executor)
    found = await services.programs.find(program_id, session_id) if is_seen else None
    if found is not None:
        if revision is None or body.deletion is not None:
            raise await _in_the_way(found, body.deletion, services, executor)
        stored = await _put_back(found, revision, services, executor)
    elif is_seen:
        stored = await _undelete(program_id, session_id, body, services, executor)
    else:
        raise await services.programs.missing(program_id, session_id)
    what = {"deletion": body.deletion, "revision": revision, "reason": body.reason}
    _log.info("program restored", program_id=program_id, by=executor.name, **what)
    return program_answer(stored)


async def _in_the_way(found: StoredProgram, deletion: int | None, services: Services, by: Principal) -> ProgramExists:
    """Makes the error for a program that is there while a deleted one is to be restored."""
    program_id = found.program.id
    if deletion is None:
        listed = await services.deleted_programs.listed(program_id, found.session_id, by.editor)
        deletion = listed[0].number if listed else None
    return taken(program_id, deletion)


async def _put_back(found: StoredProgram, revision: int, services: Services, by: Principal) -> StoredProgram:
    """Gives a program that is there the definition of a former revision."""
    found.check_editor(by.editor)
    definition = await services.deleted_programs.definition(found, revision)
    new = NewProgram(found.program.id, found.session_id, definition, by.editor)
    change = ProgramChange(new, Precondition(revision=found.program.revision))
    (result,) = await make_changes([await check_change(change, services, by)], services, by)
    return result.stored


async def _undelete(
    program_id: str, session_id: str | None, body: RestoreBody, services: Services, by: Principal
) -> StoredProgram:
    """Brings a deleted program back; at another revision than its last one, that is loaded first."""
    deleted = await services.deleted_programs.find(program_id, session_id, by.editor, body.deletion)
    new, revision = None, body.revision
    if revision is not None and revision != deleted.program.revision:
        definition = await services.deleted_programs.definition(deleted, revision)
        deleted.check_editor(by.editor, definition)
        new = NewProgram(program_id, session_id, await try_definition(definition, services), by.editor)
    return await services.deleted_programs.restore(deleted, new)
