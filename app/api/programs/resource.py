"""`/programs`: create, list, show, delete. Running one is `app.execute.endpoint`."""

import dataclasses
import secrets
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
import structlog
from fastapi import Path, Query, Response
from pydantic import Field as PydanticField
from pydantic import JsonValue

from app.access.auth import Executor, Principal, Reader
from app.api.base import MAX_KEY, Identifier, Out, Page, Router, Text
from app.api.preconditions import etag
from app.api.programs.body import NO_LIMITS, Compare, FieldTypeName, ProgramBody, ProgramTypeName
from app.api.programs.check import try_definition
from app.openapi.document import header, raises
from app.replicas.told import FLUSH, Kept
from app.services import Running, Services
from pools.calls import Program
from poolshift.worker.definitions import Field, Signature
from routing.catalog.definitions import default_of, has_state, schema_of
from routing.catalog.own_definitions import no_own_definition
from routing.catalog.owners import Caller
from routing.catalog.programs import NewProgram, ProgramPage, StoredProgram

router = Router(prefix="/programs", tags=["programs"])
_log = structlog.stdlib.get_logger("poolshift.programs")
MAX_PAGE_BYTES = 1024 * 1024
"""The bytes of definitions on a page. The event loop encodes so many in a few milliseconds."""

ProgramId = Annotated[Text, Path()]
OwnVersion = Annotated[
    Literal["v2"] | None, Query(description="`v2`: V2's own definition; without it the one that every version runs")
]
SessionQuery = Annotated[Identifier | None, Query(description="Its programs first, then the global ones")]


PROGRAM_HEADERS = {"Location": header("Location"), "ETag": header("ETag")}
DEFINITION_PROBLEMS = (
    "load_failed",
    "session_not_found",
    "quota_exceeded",
    "code_outdated",
    "incompatible_definition",
    "worker_crashed",
    "pool_overloaded",
    "pool_closed",
    "store_unavailable",
)
"""Codes of what keeps or tries a definition, beside those of the request itself."""


class FieldView(Out):
    """An input or an output."""

    name: str
    type: FieldTypeName
    description: str | None
    required: bool
    default: JsonValue
    json_schema: dict[str, JsonValue] | None = PydanticField(alias="schema")
    compare: Compare = PydanticField("exact", description="The comparison of an output in shadow calls, if not exact")
    secret: bool = PydanticField(default=False, description="True if no report of shadow calls shows the value")


class SignatureView(Out):
    """The inputs and outputs of a program."""

    name: str | None
    description: str | None
    inputs: list[FieldView]
    outputs: list[FieldView]
    derived: bool = PydanticField(description="True if the annotations of the program's function tell it")


class DefinitionView(Out):
    """The definition of a program."""

    program_type: ProgramTypeName
    signature: SignatureView
    entrypoint: str | None
    instructions: str | None
    idempotent: bool
    has_state: bool
    tools: list[str]
    timeout_s: float | None
    max_concurrency: int | None
    memory_mb: int | None
    metrics: bool
    shadow: bool
    metric: str | None
    metric_range: tuple[float, float] | None
    shared: bool
    revision: int


class OwnDefinitionView(DefinitionView):
    """The definition that V2 alone runs; its revisions are counted apart."""

    created_at: datetime
    created_by: str | None


class ProgramView(DefinitionView):
    """A program, with the definition that every version runs which has none of its own."""

    id: str
    session_id: str | None
    owner: str | None = PydanticField(
        description="The owner whose keys alone may change a global program, unless it is `shared`; null for everyone"
    )
    created_at: datetime
    execution_count: int
    last_executed_at: datetime | None
    v2: OwnDefinitionView | None = PydanticField(description="V2's own definition, if it has one")


def program_json(stored: StoredProgram) -> bytes:
    """Shows a program as `ProgramView` has it. Defaults are JSON in memory too, and go out as they are."""
    v2 = stored.v2
    own = None if v2 is None else {**_definition(v2.program), "created_at": v2.created_at, "created_by": v2.created_by}
    return msgspec.json.encode(
        {
            "id": stored.program.id,
            "session_id": stored.session_id,
            **_definition(stored.program),
            "created_at": stored.created_at,
            "execution_count": stored.execution_count,
            "last_executed_at": stored.last_executed_at,
            "owner": stored.owner,
            "v2": own,
        }
    )


def _definition(program: Program) -> dict[str, Any]:
    """Shows the members of `DefinitionView`: those of the definition, and those that are made of it."""
    definition = program.definition
    made: dict[str, Any] = {
        "signature": _signature(definition.signature),
        "has_state": has_state(definition),
        **msgspec.structs.asdict(definition.limits or NO_LIMITS),
        "revision": program.revision,
    }
    return {name: made[name] if name in made else getattr(definition, name) for name in DefinitionView.model_fields}


def _signature(signature: Signature) -> dict[str, Any]:
    return {
        "name": signature.name,
        "description": signature.description,
        "inputs": [_field(field) for field in signature.inputs],
        "outputs": [_field(field) for field in signature.outputs],
        "derived": signature.derived,
    }


def _field(field: Field) -> dict[str, Any]:
    return {
        "name": field.name,
        "type": field.type,
        "description": field.description,
        "required": field.required,
        "default": default_of(field),
        "schema": schema_of(field),
        **({} if field.compare is None else {"compare": field.compare}),
        **({"secret": True} if field.secret else {}),
    }


@router.post(
    "",
    status_code=201,
    response_model=ProgramView,
    responses={201: {"headers": PROGRAM_HEADERS}},
    openapi_extra=raises("program_exists", *DEFINITION_PROBLEMS),
)
async def create_program(body: ProgramBody, services: Running, executor: Executor) -> Response:
    """Creates a program. A process of its own loads it at once, so that the answer tells a mistake."""
    program_id = body.id or f"prog-{secrets.token_hex(8)}"
    if body.session_id is not None:
        await services.sessions.admit(body.session_id, executor.caller, may_begin_again=True)
    new = NewProgram(program_id, body.session_id, body.definition(), executor.editor)
    await services.deleted_programs.check_new(new)
    tried = await try_definition(new.definition, services)
    stored = await services.programs.add(dataclasses.replace(new, definition=tried))
    if body.session_id is not None:
        await services.sessions.keep(body.session_id, executor.caller, programs=[program_id])
    return program_answer(stored, is_new=True)


@router.get("", response_model=Page[ProgramView], openapi_extra=raises("store_unavailable"))
async def list_programs(
    services: Running,
    reader: Reader,
    session_id: Annotated[Identifier | None, Query(description="Its programs; without it the global ones")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Annotated[int, Query(ge=0, le=MAX_KEY, description="`next_cursor` of the page before")] = 0,
) -> Response:
    """Lists programs by creation. A page ends early before it would be over 1 MiB."""
    if session_id is not None and not await services.sessions.sees(session_id, reader.reader):
        return _page(ProgramPage([], has_more=False))
    await services.machine.ask_others(FLUSH, Kept.PROGRAMS)
    return _page(await services.programs.page(session_id, limit=limit, max_bytes=MAX_PAGE_BYTES, after=cursor))


@router.get(
    "/{program_id}",
    response_model=ProgramView,
    responses={200: {"headers": {"ETag": header("ETag")}}},
    openapi_extra=raises("program_not_found", "store_unavailable"),
)
async def show_program(
    program_id: ProgramId,
    services: Running,
    reader: Reader,
    session_id: SessionQuery = None,
    pool_version: OwnVersion = None,
) -> Response:
    """A program and its use; with `pool_version=v2` as V2's own definition has it."""
    visible = await visible_session(session_id, services, reader.reader)
    await services.machine.ask_others(FLUSH, Kept.PROGRAMS)
    stored = await services.programs.show(program_id, visible)
    return program_answer(stored if pool_version is None else own_view(stored))


@router.delete("/{program_id}", status_code=204, openapi_extra=raises("program_not_found", "store_unavailable"))
async def delete_program(
    program_id: ProgramId,
    services: Running,
    executor: Executor,
    session_id: SessionQuery = None,
    pool_version: OwnVersion = None,
) -> None:
    """Deletes a program, or with `pool_version=v2` V2's own definition alone; calls that run go on.

    With a session it is exactly the session's: the global program of that id stays. `POST …/restore` brings it back.
    """
    found = await program_to_change(program_id, session_id, services, executor)
    if pool_version is None:
        await services.deleted_programs.delete(found, executor.editor)
        _log.info("program deleted", program_id=program_id, session_id=session_id, by=executor.name)
        return
    async with services.ramp.changing(lambda: f"{executor.name} took back V2's own definition of {program_id}"):
        await services.programs.take_back_v2(found)


def _page(page: ProgramPage) -> Response:
    items = b",".join(program_json(stored) for stored in page.programs)
    cursor = msgspec.json.encode(page.programs[-1].program.key if page.has_more else None)
    return json_answer(b'{"items":[' + items + b'],"next_cursor":' + cursor + b"}")


def own_view(stored: StoredProgram) -> StoredProgram:
    """Returns a program as V2's own definition has it. Raises NoOwnDefinition."""
    if stored.v2 is None:
        raise no_own_definition(stored.program.id)
    return dataclasses.replace(stored, program=stored.v2.program, v2=None)


def program_answer(stored: StoredProgram, *, is_new: bool = False) -> Response:
    """Shows a program with its revision as the ETag; one that is new with its address."""
    headers = {"etag": etag(stored.program.revision)}
    if is_new:
        headers["location"] = f"/programs/{stored.program.id}"
    return json_answer(program_json(stored), 201 if is_new else 200, headers)


def json_answer(body: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Makes a response of JSON."""
    return Response(body, status, headers, media_type="application/json")


async def program_to_change(
    program_id: str, session_id: str | None, services: Services, executor: Principal
) -> StoredProgram:
    """Finds exactly the program that a change names: a session's, or the global one without a session.

    Raises:
        ProgramNotFound: there is none; another owner's session looks like one that does not exist.
        NotTheOwner: the program belongs to another owner.
    """
    if not await sees_session(session_id, services, executor):
        raise await services.programs.missing(program_id, session_id)
    found = await services.programs.show_own(program_id, session_id)
    found.check_editor(executor.editor)
    return found


async def sees_session(session_id: str | None, services: Services, executor: Principal) -> bool:
    """Tells if a key may use a session; True without one."""
    return session_id is None or await services.sessions.sees(session_id, executor.caller)


async def visible_session(session_id: str | None, services: Running, caller: Caller) -> str | None:
    """The session, unless it is another owner's: that one looks like a session which does not exist."""
    if session_id is None or await services.sessions.sees(session_id, caller):
        return session_id
    return None
