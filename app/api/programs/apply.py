"""`PATCH /programs`: many programs become as they are described, all of them or none."""

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from fastapi import Query, Response
from pydantic import Field

from app.access.auth import Executor, Principal
from app.api.base import MAX_REVISION, Identifier, In, Out, Router
from app.api.programs.body import ProgramBody
from app.api.programs.changes import Checked, check_change, make_changes
from app.api.programs.resource import (
    DEFINITION_PROBLEMS,
    OwnVersion,
    ProgramView,
    json_answer,
    own_view,
    program_json,
)
from app.openapi.document import raises
from app.problems import Problem, problem_of
from app.services import Running, Services
from routing.catalog.programs import NewProgram, ProgramChange, StoredProgram
from routing.catalog.revisions import ANY_STATE, Precondition

router = Router(prefix="/programs", tags=["programs"])
MAX_APPLIED = 1000
"""Programs of one request. Each that changes is loaded before any is stored."""
_OURS = 500
"""The least status of a problem that is not about a single program."""


class AppliedProgram(ProgramBody):
    """A program as it shall be."""

    id: Identifier
    expected_revision: int | None = Field(
        None, ge=0, le=MAX_REVISION, description="The revision that it must have; 0 if there must be no such program"
    )


class ApplyBody(In):
    """The programs as they shall be."""

    programs: list[AppliedProgram] = Field(min_length=1, max_length=MAX_APPLIED)


class AppliedView(Out):
    """One program after the request, and what became of it."""

    result: Literal["created", "updated", "unchanged"]
    program: ProgramView


class ApplyView(Out):
    """All programs after the request, in its order."""

    items: list[AppliedView]


@router.patch(
    "",
    response_model=ApplyView,
    openapi_extra=raises("program_not_found", "program_exists", "stale_revision", *DEFINITION_PROBLEMS),
)
async def apply_programs(
    body: ApplyBody,
    services: Running,
    executor: Executor,
    *,
    session_id: Annotated[
        Identifier | None, Query(description="The session of the programs that name none; without it they are global")
    ] = None,
    pool_version: OwnVersion = None,
    dry_run: Annotated[bool, Query(description="Checks everything and shows the result; changes nothing")] = False,
) -> Response:
    """Creates and changes programs so that they are as described: all of them or, if one cannot be, none.

    First each one is checked as PUT checks it, then all are stored at once. A refusal has an item of `errors` for each
    fault of each program, with its `code`; the problem itself is that of the first one.
    """
    of_v2 = pool_version is not None
    changes = [_change(one, one.session_id or session_id, executor, of_v2=of_v2) for one in body.programs]
    checked = await _check_all(changes, services, executor)
    if dry_run:
        return _answer(checked, [one.after for one in checked])
    results = await make_changes(checked, services, executor)
    return _answer(checked, [one.stored for one in results])


def _change(body: AppliedProgram, session_id: str | None, by: Principal, *, of_v2: bool) -> ProgramChange:
    expected = body.expected_revision
    condition = ANY_STATE
    if expected is not None:
        condition = Precondition(must_be_new=expected == 0, revision=expected or None)
    return ProgramChange(NewProgram(body.id, session_id, body.definition(), by.editor), condition, of_v2=of_v2)


async def _check_all(changes: list[ProgramChange], services: Services, executor: Principal) -> list[Checked]:
    """Checks all changes, one after the other, so that nobody else waits long to have a program tried."""
    checked: list[Checked] = []
    refusals: list[tuple[int, Problem]] = []
    places: dict[tuple[str | None, str], int] = {}
    for at, change in enumerate(changes):
        try:
            _refuse_second(change, places.setdefault((change.new.session_id, change.new.id), at), at)
            checked.append(await check_change(change, services, executor))
        except Exception as error:
            problem = problem_of(error)
            if problem.kind.status >= _OURS:
                raise
            refusals.append((at, problem))
    if refusals:
        raise _refusal(refusals, changes)
    return checked


def _refuse_second(change: ProgramChange, first: int, at: int) -> None:
    if first != at:
        message = f"the program {change.new.id!r} is at programs.{first} already"
        errors = [{"at": "body.id", "message": message}]
        raise Problem("invalid_request", message, extensions={"errors": errors})


def _refusal(refusals: list[tuple[int, Problem]], changes: list[ProgramChange]) -> Problem:
    """Makes the problem of a request that is refused: the first one's, with the errors of all."""
    errors = [{**error, "code": problem.code} for at, problem in refusals for error in _errors(at, problem)]
    at, first = refusals[0]
    others = f" ({len(refusals) - 1} others are refused, too)" if len(refusals) > 1 else ""
    detail = f"nothing is changed: the program {changes[at].new.id!r}: {first.detail}{others}"
    return Problem(first.code, detail, first.retry_safe, first.retry_after_s, {**first.extensions, "errors": errors})


def _errors(at: int, problem: Problem) -> list[dict[str, str]]:
    """The errors of one program, with its place in the body of the request."""
    place = f"body.programs.{at}"
    told = problem.extensions.get("errors")
    if told is None:
        return [{"at": place, "message": problem.detail}]
    return [{"at": f"{place}.{one['at'].removeprefix('body.')}", "message": one["message"]} for one in told]


def _answer(checked: list[Checked], stored: Sequence[StoredProgram]) -> Response:
    items = []
    for one, program in zip(checked, stored, strict=True):
        result = "unchanged" if not one.is_needed else "created" if one.is_new else "updated"
        shown = own_view(program) if one.change.of_v2 else program
        items.append({"result": result, "program": msgspec.Raw(program_json(shown))})
    return json_answer(msgspec.json.encode({"items": items}))
