"""The pages of programs: a list, a program with its revisions, and a form that runs it."""

import asyncio
import json
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, Final

import msgspec
from fastapi import Query, Request, Response

from app.api.base import MAX_KEY, Matching
from app.api.programs.body import ProgramBody
from app.api.programs.resource import MAX_PAGE_BYTES, program_json, visible_session
from app.console.access import Acting, Viewing, Visitor, with_scope
from app.console.forms import InvalidForm, read_form
from app.console.route import console_of, new_router
from app.execute.exchange import AsgiExchange
from app.replicas.told import FLUSH, Kept
from app.services import Running, Services
from config.api_keys import Scope
from poolshift.worker.definitions import Field
from routing.catalog.programs import ProgramPage
from routing.catalog.revisions import RevisionPage
from routing.catalog.texts import ID_PATTERN, ID_RULE, MAX_ID_LENGTH
from routing.errors import StoreUnavailable
from routing.versions import Version

router = new_router()

ROWS: Final = 50
REVISIONS: Final = 20
_SPLIT: Final = "split"
_BOTH: Final = "both"
_SHOWN: Final = frozenset({"id", "session_id", "program_type", "entrypoint", "instructions", "signature", "idempotent"})
"""Members that the page of a program has in its own way; it lists any other that is set."""

SessionParameter = Annotated[str, Query(max_length=MAX_ID_LENGTH), Matching(f"^$|{ID_PATTERN}", ID_RULE)]


@router.get("/programs")
async def list_programs(
    request: Request,
    visitor: Viewing,
    services: Running,
    session: SessionParameter = "",
    after: Annotated[int, Query(ge=0, le=MAX_KEY)] = 0,
) -> Response:
    """A page of programs by creation."""
    problem, page = None, ProgramPage([], has_more=False)
    try:
        if not session or await services.sessions.sees(session, visitor.principal.reader):
            await services.machine.ask_others(FLUSH, Kept.PROGRAMS)
            page = await services.programs.page(session or None, limit=ROWS, max_bytes=MAX_PAGE_BYTES, after=after)
    except StoreUnavailable:
        problem = "The database does not answer, so programs cannot be listed. Calls go on."
    return console_of(request).renderer.page(
        request,
        "programs",
        visitor=visitor,
        session=session,
        problem=problem,
        programs=page.programs,
        next_cursor=page.programs[-1].program.key if page.has_more else None,
    )


@router.get("/programs/{program_id}")
async def show_program(
    request: Request, visitor: Viewing, services: Running, program_id: str, session: SessionParameter = ""
) -> Response:
    """A program's definition, its revisions, and a form to run it."""
    return await _program_page(request, visitor, services, program_id, session)


@router.post("/programs/{program_id}/run")
async def run_program(request: Request, visitor: Acting, services: Running, program_id: str) -> Response:
    """Runs a program once, or once on each version, and shows what came out side by side."""
    with_scope(visitor, Scope.EXECUTE)
    form = await read_form(request)
    session = form.get("session", "")
    given = {name.removeprefix("in."): value for name, value in form.items() if name.startswith("in.")}
    on = form.get("on", _SPLIT)
    if on != _SPLIT:
        with_scope(visitor, Scope.ADMIN)
    visible = await visible_session(session or None, services, visitor.principal.caller)
    stored = await services.programs.show(program_id, visible)
    try:
        inputs = inputs_of(stored.program.definition.signature.inputs, given)
    except InvalidForm as error:
        return await _program_page(
            request, visitor, services, program_id, session, given=given, on=on, problem=str(error), status=422
        )
    chosen: list[Version | None] = [None] if on == _SPLIT else [one for one in services.pools if on in (one, _BOTH)]
    body = msgspec.json.encode({"inputs": inputs, **({"session_id": session} if session else {})})
    results = await asyncio.gather(*(_run(request, visitor, program_id, body, one) for one in chosen))
    return await _program_page(
        request, visitor, services, program_id, session, given=given, on=on, results=list(results)
    )


async def _run(
    request: Request, visitor: Visitor, program_id: str, body: bytes, version: Version | None
) -> dict[str, Any]:
    """Runs a call through the execute lane, as any other call, on behalf of the visitor."""
    sent: list[Mapping[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if not sent_body:
            sent_body.append(True)
            return {"type": "http.request", "body": body, "more_body": False}
        await asyncio.Event().wait()  # the browser waits for the page, and does not go
        raise AssertionError

    async def send(message: Any) -> None:
        sent.append(message)

    sent_body: list[bool] = []
    headers = [(b"host", request.headers.get("host", "").encode()), (b"content-length", b"%d" % len(body))]
    if version is not None:
        headers.append((b"x-pool-version", version.encode()))
    scope = {**request.scope, "path": f"/programs/{program_id}/execute", "headers": headers}
    services: Services = request.app.state.services
    exchange = AsgiExchange(scope, receive, send, services.tasks)
    exchange.principal = visitor.principal
    await request.app.lane.serve(exchange)
    answer = b"".join(message.get("body", b"") for message in sent)
    head = dict(sent[0]["headers"])
    return {
        "version": head.get(b"x-pool-version", b"-").decode(),
        "status": sent[0]["status"],
        "body": json.loads(answer),
    }


async def _program_page(
    request: Request,
    visitor: Visitor,
    services: Services,
    program_id: str,
    session: str,
    *,
    given: Mapping[str, str] | None = None,
    on: str = _SPLIT,
    problem: str | None = None,
    results: list[dict[str, Any]] | None = None,
    status: int = 200,
) -> Response:
    visible = await visible_session(session or None, services, visitor.principal.reader)
    await services.machine.ask_others(FLUSH, Kept.PROGRAMS)
    stored = await services.programs.show(program_id, visible)
    read = partial(
        services.programs.revisions, program_id, visible, limit=REVISIONS, max_bytes=MAX_PAGE_BYTES, before=None
    )
    page, own = await read(), await read(of_v2=True) if stored.v2_revision else None
    labels = [(str(version), str(version).upper()) for version in services.pools]
    if len(labels) > 1:
        labels.append((_BOTH, "both, side by side"))
    view = json.loads(program_json(stored))
    return console_of(request).renderer.page(
        request,
        "program",
        visitor=visitor,
        within="programs",
        program=view,
        others=_others(view),
        session=session,
        inputs=dict(given or {}),
        on=on,
        on_versions=labels,
        problem=problem,
        results=results or [],
        revisions=_shown(page),
        own_revisions=_shown(own) if own is not None else [],
        has_own=stored.v2 is not None,
        status=status,
    )


def _others(view: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the other members of a definition that are set, under their names in the API."""
    others = [name for name in ProgramBody.model_fields if name in view and name not in _SHOWN]
    return {
        name: ", ".join(map(str, value)) if isinstance(value, list) else value
        for name in others
        if (value := view[name]) not in (None, False, [])
    }


def _shown(page: RevisionPage) -> list[dict[str, Any]]:
    return [json.loads(msgspec.json.encode(one._asdict())) for one in page.revisions]


def inputs_of(fields: tuple[Field, ...], given: Mapping[str, str]) -> dict[str, Any]:
    """Converts the texts of a form to inputs. The worker checks them against the signature.

    Raises:
        InvalidForm: names the field.
    """
    inputs: dict[str, Any] = {}
    for field in fields:
        text = given.get(field.name, "")
        if not text and (field.type != "string" or not field.required):
            continue
        if field.type == "string":
            inputs[field.name] = text.replace("\r\n", "\n")
            continue
        try:
            inputs[field.name] = json.loads(text)
        except ValueError:
            raise InvalidForm(f"{field.name}: this is not JSON, as the type {field.type} needs.") from None
    return inputs
