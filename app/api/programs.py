"""`/programs`: create, list, show, delete. Running one is `app.execute.endpoint`."""

import secrets
from typing import Annotated

from fastapi import APIRouter, Query, Response

from app.api.schemas import MAX_KEY, Identifier, Page, ProgramBody, ProgramView, program_view
from app.auth import Executor
from app.problems import Problem
from app.services import Running
from poolshift.worker.definitions import Definition
from poolshift.worker.loading import EntrypointError
from routing.catalog.programs import NewProgram

router = APIRouter(prefix="/programs", tags=["programs"])

SessionQuery = Annotated[Identifier | None, Query(description="Its programs first, then the global ones")]


@router.post("", status_code=201)
async def create_program(body: ProgramBody, parts: Running, _: Executor, response: Response) -> ProgramView:
    """Creates a program. It is loaded at once, in a process of its own, so that a mistake is told now."""
    program_id = body.id or f"prog-{secrets.token_hex(8)}"
    definition = body.definition()
    await _try(definition, parts)
    stored = await parts.programs.add(NewProgram(program_id, body.session_id, definition))
    if body.session_id is not None:
        parts.sessions.seen(body.session_id)
        await parts.sessions.flush()  # every replica is to know of it
    response.headers["location"] = f"/programs/{program_id}"
    return program_view(stored)


@router.get("")
async def list_programs(
    parts: Running,
    _: Executor,
    session_id: Annotated[Identifier | None, Query(description="Its programs; without it the global ones")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Annotated[int, Query(ge=0, le=MAX_KEY, description="`next_cursor` of the page before")] = 0,
) -> Page[ProgramView]:
    """A page of programs, by creation."""
    found = await parts.programs.page(session_id, limit=limit + 1, after=cursor)
    items = [program_view(stored) for stored in found[:limit]]
    return Page(items=items, next_cursor=found[limit - 1].program.key if len(found) > limit else None)


@router.get("/{program_id}")
async def show_program(program_id: str, parts: Running, _: Executor, session_id: SessionQuery = None) -> ProgramView:
    """A program and its use."""
    return program_view(await parts.programs.show(program_id, session_id))


@router.delete("/{program_id}", status_code=204)
async def delete_program(program_id: str, parts: Running, _: Executor, session_id: SessionQuery = None) -> None:
    """Deletes a program; calls that run go on."""
    await parts.programs.remove(program_id, session_id)


async def _try(definition: Definition, parts: Running) -> None:
    try:
        await parts.spawner.check(definition)
    except EntrypointError as error:
        errors = [{"at": f"body.{error.at}", "message": str(error)}]
        raise Problem("invalid_request", f"body.{error.at}: {error}", extensions={"errors": errors}) from None
