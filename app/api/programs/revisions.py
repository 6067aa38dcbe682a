"""`PUT /programs/{id}` creates a program or replaces its definition; `…/revisions` lists the former definitions."""

import dataclasses
from datetime import UTC, datetime
from typing import Annotated

import msgspec
from fastapi import Path, Query, Response
from pydantic import Field, JsonValue

from app.access.auth import Executor, Reader
from app.api.base import MAX_REVISION, Identifier, Out, Page, Router
from app.api.preconditions import IfMatch, IfNoneMatch, precondition
from app.api.programs.body import ProgramBody
from app.api.programs.check import try_definition
from app.api.programs.resource import (
    DEFINITION_PROBLEMS,
    MAX_PAGE_BYTES,
    PROGRAM_HEADERS,
    OwnVersion,
    ProgramId,
    ProgramView,
    SessionQuery,
    json_answer,
    program_answer,
    visible_session,
)
from app.api.programs.versions import is_same, put_for_v2
from app.openapi.document import header, raises
from app.problems import Problem
from app.services import Running, Services
from pools.calls import Program
from routing.catalog.compatibility import ensure_compatible
from routing.catalog.owners import Caller
from routing.catalog.programs import NewProgram, StoredProgram
from routing.catalog.revisions import Precondition
from routing.errors import SessionNotFound

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
    openapi_extra=raises("program_not_found", "stale_revision", *DEFINITION_PROBLEMS),
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
    new = NewProgram(program_id, _session(program_id, session_id, body), body.definition(), executor.name)
    condition = precondition(if_match, if_none_match)
    if pool_version is not None:
        return await put_for_v2(new, condition, services, executor, is_dry_run=dry_run)
    if dry_run:
        return program_answer(await _preview(new, condition, services, executor.caller))
    if new.session_id is not None:
        await services.sessions.admit(new.session_id, executor.caller, may_begin_again=True)
    before = await _before(new, condition, services)
    if before is not None and is_same(before.program, new):
        return program_answer(before)
    new = await _tried(new, services)
    stored, is_new = await services.programs.put(new, condition)
    if new.session_id is not None:
        await services.sessions.keep(new.session_id, executor.caller.owner)
    if stored.v2 is not None:
        await services.ramp.restart_evidence(f"{executor.name} changed V1's definition of {program_id}, V2 has its own")
    return program_answer(stored, is_new=is_new)


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
    return json_answer(
        msgspec.json.encode({"items": [one._asdict() for one in page.revisions], "next_cursor": next_cursor})
    )


def _session(program_id: str, session_id: str | None, body: ProgramBody) -> str | None:
    """Returns the session of the program; the body may repeat what the address says, and may not contradict it."""
    for name, said in (("id", program_id), ("session_id", session_id)):
        given = getattr(body, name)
        if None not in (given, said) and given != said:
            message = f"{given!r} is not {said!r}, which the address has"
            errors = [{"at": f"body.{name}", "message": message}]
            raise Problem("invalid_request", f"body.{name}: {message}", extensions={"errors": errors})
    return body.session_id if session_id is None else session_id


async def _before(new: NewProgram, condition: Precondition, services: Services) -> StoredProgram | None:
    """Reads the program that is to be replaced. Raises StaleProgram, ahead of all that takes long."""
    before = await services.programs.find(new.id, new.session_id)
    condition.check(new.id, None if before is None else before.program.revision)
    return before


async def _preview(new: NewProgram, condition: Precondition, services: Services, caller: Caller) -> StoredProgram:
    """Returns the program as a change would make it."""
    if new.session_id is not None and not await services.sessions.sees(new.session_id, caller):
        raise SessionNotFound(new.session_id)
    before = await _before(new, condition, services)
    if before is not None and is_same(before.program, new):
        return before
    new = await _tried(new, services)
    if before is not None and is_same(before.program, new):
        return before
    if before is not None and before.v2 is not None:
        await ensure_compatible(new.definition.signature, before.v2.program.definition.signature)
    services.programs.check_quotas(new)
    if before is None:
        return StoredProgram(Program("", new.id, new.definition), new.session_id, datetime.now(UTC))
    program = Program(before.program.key, new.id, new.definition, before.program.revision + 1)
    return dataclasses.replace(before, program=program)


async def _tried(new: NewProgram, services: Services) -> NewProgram:
    """Returns the program with its definition as it is kept, once that has been loaded. Raises Problem."""
    return dataclasses.replace(new, definition=await try_definition(new.definition, services))
