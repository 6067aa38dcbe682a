"""`/programs`: create, list, show, delete. Running one is `app.execute.endpoint`."""

import secrets
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Path, Query, Response
from pydantic import JsonValue

from app.api.base import MAX_KEY, Identifier, Out, Page, Text
from app.api.program_body import FieldTypeName, ProgramBody, ProgramTypeName
from app.auth import Executor
from app.problems import Problem
from app.services import Running
from poolshift.worker.definitions import Definition
from poolshift.worker.loading import EntrypointError
from routing.catalog.programs import NewProgram, StoredProgram

router = APIRouter(prefix="/programs", tags=["programs"])

ProgramId = Annotated[Text, Path()]
SessionQuery = Annotated[Identifier | None, Query(description="Its programs first, then the global ones")]


class FieldView(Out):
    """An input or an output."""

    name: str
    type: FieldTypeName
    description: str | None
    required: bool
    default: JsonValue


class SignatureView(Out):
    """What goes into a program and what comes out."""

    name: str | None
    description: str | None
    inputs: list[FieldView]
    outputs: list[FieldView]


class ProgramView(Out):
    """A program."""

    id: str
    session_id: str | None
    program_type: ProgramTypeName
    signature: SignatureView
    entrypoint: str | None
    instructions: str | None
    idempotent: bool
    has_state: bool
    tools: list[str]
    created_at: datetime
    execution_count: int
    last_executed_at: datetime | None


def program_view(stored: StoredProgram) -> ProgramView:
    """A program as it is shown."""
    definition = stored.program.definition
    return ProgramView(
        id=stored.program.id,
        session_id=stored.session_id,
        program_type=definition.program_type,
        signature=SignatureView.model_validate(definition.signature, from_attributes=True),
        entrypoint=definition.entrypoint,
        instructions=definition.instructions,
        idempotent=definition.idempotent,
        has_state=definition.state is not None,
        tools=list(definition.tools),
        created_at=stored.created_at,
        execution_count=stored.execution_count,
        last_executed_at=stored.last_executed_at,
    )


@router.post("", status_code=201)
async def create_program(body: ProgramBody, services: Running, _: Executor, response: Response) -> ProgramView:
    """Creates a program. It is loaded at once, in a process of its own, so that a mistake is told now."""
    program_id = body.id or f"prog-{secrets.token_hex(8)}"
    definition = body.definition()
    await _try(definition, services)
    stored = await services.programs.add(NewProgram(program_id, body.session_id, definition))
    if body.session_id is not None:
        services.sessions.seen(body.session_id)
        await services.sessions.flush()  # every replica is to know of it
    response.headers["location"] = f"/programs/{program_id}"
    return program_view(stored)


@router.get("")
async def list_programs(
    services: Running,
    _: Executor,
    session_id: Annotated[Identifier | None, Query(description="Its programs; without it the global ones")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Annotated[int, Query(ge=0, le=MAX_KEY, description="`next_cursor` of the page before")] = 0,
) -> Page[ProgramView]:
    """A page of programs, by creation."""
    found = await services.programs.page(session_id, limit=limit + 1, after=cursor)
    items = [program_view(stored) for stored in found[:limit]]
    return Page(items=items, next_cursor=found[limit - 1].program.key if len(found) > limit else None)


@router.get("/{program_id}")
async def show_program(
    program_id: ProgramId, services: Running, _: Executor, session_id: SessionQuery = None
) -> ProgramView:
    """A program and its use."""
    return program_view(await services.programs.show(program_id, session_id))


@router.delete("/{program_id}", status_code=204)
async def delete_program(
    program_id: ProgramId, services: Running, _: Executor, session_id: SessionQuery = None
) -> None:
    """Deletes a program; calls that run go on."""
    await services.programs.remove(program_id, session_id)


async def _try(definition: Definition, services: Running) -> None:
    try:
        await services.spawner.check(definition)
    except EntrypointError as error:
        errors = [{"at": f"body.{error.at}", "message": str(error)}]
        raise Problem("invalid_request", f"body.{error.at}: {error}", extensions={"errors": errors}) from None
