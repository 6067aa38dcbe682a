"""`PUT /programs/{id}` creates a program or replaces its definition; `…/revisions` lists the former definitions."""

from datetime import datetime
from typing import Annotated

import msgspec
from fastapi import Path, Query, Response
from pydantic import Field, JsonValue

from app.access.auth import Executor, Reader
from app.api.base import MAX_REVISION, Identifier, Out, Page, Router
from app.api.preconditions import IfMatch, IfNoneMatch, precondition
from app.api.programs.body import ProgramBody, body_of
from app.api.programs.changes import check_change, make_changes
from app.api.programs.resource import (
    DEFINITION_PROBLEMS,
    MAX_PAGE_BYTES,
    PROGRAM_HEADERS,
    OwnVersion,
    ProgramId,
    ProgramView,
    SessionQuery,
    json_answer,
    own_view,
    program_answer,
    visible_session,
)
from app.openapi.document import header, raises
from app.problems import Problem
from app.services import Running
from routing.catalog.programs import NewProgram, ProgramChange, StoredProgram

router = Router(prefix="/programs", tags=["programs"])


class ProgramRevisionView(Out):
    """One definition that a program has or had."""

    revision: int
    definition: dict[str, JsonValue] = Field(description="As PUT takes it, without members that have their default")
    created_at: datetime
    created_by: str | None


@router.put(
    "/{program_id}",
    response_model=ProgramView,
    responses={
        200: {"headers": {"ETag": header("ETag")}},
        201: {"model": ProgramView, "headers": PROGRAM_HEADERS, "description": "The program is new"},
    },
    openapi_extra=raises("program_not_found", "program_exists", "stale_revision", *DEFINITION_PROBLEMS),
)
async def put_program(
    program_id: Annotated[Identifier, Path()],
    body: ProgramBody,
    services: Running,
    executor: Executor,
    *,
    session_id: Annotated[Identifier | None, Query(description="The session that the program belongs to")] = None,
    pool_version: OwnVersion = None,
    dry_run: Annotated[bool, Query(description="Checks everything and shows the result; changes nothing")] = False,
    if_match: IfMatch = None,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """Creates a program (201) or replaces its definition (200), from the next call on.

    Calls that have begun end on the definition that they began with. The definition that is in force already changes
    nothing, and keeps its revision. With `pool_version=v2` it is V2's own definition that is created or replaced.
    """
    new = NewProgram(program_id, _session(program_id, session_id, body), body.definition(), executor.editor)
    change = ProgramChange(new, precondition(if_match, if_none_match), of_v2=pool_version is not None)
    checked = await check_change(change, services, executor)
    shown = own_view if change.of_v2 else _as_it_is
    if dry_run:
        return program_answer(shown(checked.after))
    (result,) = await make_changes([checked], services, executor)
    return program_answer(shown(result.stored), is_new=result.is_new)


def _as_it_is(stored: StoredProgram) -> StoredProgram:
    return stored


@router.get(
    "/{program_id}/revisions",
    response_model=Page[ProgramRevisionView],
    openapi_extra=raises("program_not_found", "store_unavailable"),
)
async def list_program_revisions(
    program_id: ProgramId,
    services: Running,
    reader: Reader,
    session_id: SessionQuery = None,
    pool_version: OwnVersion = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Annotated[int | None, Query(ge=1, le=MAX_REVISION, description="`next_cursor` of the page before")] = None,
) -> Response:
    """Lists the definitions that a program has and had, the newest first. A page ends early before it is over 1 MiB."""
    visible = await visible_session(session_id, services, reader.reader)
    page = await services.programs.revisions(
        program_id,
        visible,
        limit=limit,
        max_bytes=MAX_PAGE_BYTES,
        before=cursor,
        of_v2=pool_version is not None,
    )
    next_cursor = str(page.revisions[-1].revision) if page.has_more and page.revisions else None
    items = [{**one._asdict(), "definition": body_of(one.definition)} for one in page.revisions]
    return json_answer(msgspec.json.encode({"items": items, "next_cursor": next_cursor}))


def _session(program_id: str, session_id: str | None, body: ProgramBody) -> str | None:
    """Returns the session of the program; the body may repeat what the address says, and may not contradict it."""
    for name, said in (("id", program_id), ("session_id", session_id)):
        given = getattr(body, name)
        if None not in (given, said) and given != said:
            message = f"{given!r} is not {said!r}, which the address has"
            errors = [{"at": f"body.{name}", "message": message}]
            raise Problem("invalid_request", f"body.{name}: {message}", extensions={"errors": errors})
    return body.session_id if session_id is None else session_id
