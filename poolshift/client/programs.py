"""Programs: `/programs` and their revisions."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import msgspec

from poolshift.client.calls import (
    Call,
    Listing,
    Page,
    encoded,
    get,
    given,
    members,
    nothing,
    post,
    reader,
    segment,
)

_PATIENCE_S = 30.0
"""Seconds that the service may take to try one definition."""


class Field(msgspec.Struct, frozen=True, omit_defaults=True):
    """An input or an output of a program. It needs a `type` or a `schema`."""

    name: str
    type: str | None = None
    """`string`, `integer`, `number`, `boolean`, `array`, `object` or `any`."""
    description: str | None = None
    required: bool | None = None
    default: Any = None
    schema: dict[str, Any] | None = None
    """A JSON Schema, draft 2020-12."""
    compare: str | dict[str, float] | None = None
    """The comparison of an output in shadow calls: `exact`, `unordered`, `ignore`, `{"number": …}` or `{"text": …}`."""
    secret: bool = False
    """True if no report of shadow calls shows the value."""


class Signature(msgspec.Struct, frozen=True, omit_defaults=True):
    """The inputs and outputs of a program."""

    inputs: list[Field]
    outputs: list[Field]
    name: str | None = None
    description: str | None = None
    derived: bool = False
    """True if the annotations of the program's function tell it. Only in answers."""


class _Members(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The members of a definition that are the same in a body and in an answer."""

    program_type: str
    """`python`, `dspy`, `predict`, `chain_of_thought` or `react`."""
    entrypoint: str | None = None
    instructions: str | None = None
    idempotent: bool = False
    tools: list[str] = []
    timeout_s: float | None = None
    max_concurrency: int | None = None
    memory_mb: int | None = None
    metrics: bool = False
    shadow: bool = False
    """True if shadow calls may run it although it is not idempotent."""
    metric: str | None = None
    metric_range: tuple[float, float] | None = None
    shared: bool = False
    """True if keys of other owners may change and delete it, too."""


class Definition(_Members, frozen=True, kw_only=True, omit_defaults=True):
    """A program to create."""

    id: str | None = None
    signature: Signature | str | None = None
    """The fields, or DSPy's string form. Programs of the types `python` and `dspy` can tell it themselves."""
    state: dict[str, Any] | None = None
    session_id: str | None = None


class _Shown(_Members, frozen=True, kw_only=True):
    """The members of a definition in an answer."""

    signature: Signature
    revision: int
    created_at: datetime
    has_state: bool = False


class OwnDefinition(_Shown, frozen=True, kw_only=True):
    """The definition of a program that V2 alone runs."""

    created_by: str | None = None


class Program(_Shown, frozen=True, kw_only=True):
    """A program and its use."""

    id: str
    session_id: str | None = None
    owner: str | None = None
    """The owner whose keys alone may change a global program, unless it is shared; None is everyone."""
    execution_count: int = 0
    last_executed_at: datetime | None = None
    v2: OwnDefinition | None = None
    """V2's own definition, if it has one."""


class AppliedProgram(msgspec.Struct, frozen=True, kw_only=True):
    """One program after `apply`, and what became of it: `created`, `updated` or `unchanged`."""

    result: str
    program: Program


class Applied(msgspec.Struct, frozen=True, kw_only=True):
    """The programs after `apply`, in the order of the definitions."""

    items: list[AppliedProgram]


class ProgramRevision(msgspec.Struct, frozen=True, kw_only=True):
    """One definition that a program has or had."""

    revision: int
    definition: dict[str, Any]
    """The definition that `put_program` takes, without members that have their default."""
    created_at: datetime
    created_by: str | None = None


class ProgramDeletion(msgspec.Struct, frozen=True, kw_only=True):
    """The deletion of a program, which can be restored until it is final."""

    deletion: int
    """The number by which `restore` names it."""
    revision: int
    """The revision that was in force."""
    deleted_at: datetime
    until: datetime
    session_id: str | None = None
    owner: str | None = None
    shared: bool = False
    deleted_by: str | None = None


def create(definition: Definition | Mapping[str, Any]) -> Call[Program]:
    """Creates a program.

    Raises:
        ProgramExists: its id is taken.
        InvalidRequest: the service cannot load it; the message says why.
    """
    return post("/programs", Program, _body(definition))


def put(
    program_id: str,
    definition: Definition | Mapping[str, Any],
    *,
    session_id: str | None = None,
    pool_version: str | None = None,
    expected_revision: int | None = None,
    only_if_new: bool = False,
    dry_run: bool = False,
) -> Call[Program]:
    """Creates a program, or replaces its definition. With `dry_run` the service only checks everything.

    With `pool_version="v2"` it is V2's own definition, of a program that is there.

    Raises:
        IncompatibleDefinition: V2's own definition does not take V1's calls.
        ProgramExists: the id is kept for the owner of a deleted program.
        StaleRevision: the program has another revision than the expected one, or there is one already.
    """
    content, headers = encoded(_body(definition))
    if expected_revision is not None:
        headers["if-match"] = f'"{expected_revision}"'
    if only_if_new:
        headers["if-none-match"] = "*"
    return Call(
        "PUT",
        f"/programs/{segment(program_id)}",
        reader(Program),
        params=given({"session_id": session_id, "pool_version": pool_version, "dry_run": dry_run or None}),
        headers=headers,
        content=content,
        is_idempotent=dry_run or (expected_revision is None and not only_if_new),
    )


def apply(
    definitions: Sequence[Definition | Mapping[str, Any]],
    *,
    session_id: str | None = None,
    pool_version: str | None = None,
    dry_run: bool = False,
) -> Call[Applied]:
    """Creates and changes programs so that they are as described: all of them or, if one cannot be, none.

    Each needs an `id`. A mapping may have an `expected_revision`, which is 0 if there must be no such program. With
    `pool_version="v2"` they are V2's own definitions.

    Raises:
        PoolshiftError: the problem of the first program that is refused; its `extensions["errors"]` has those of all.
    """
    content, headers = encoded({"programs": [_body(one) for one in definitions]})
    params = given({"session_id": session_id, "pool_version": pool_version, "dry_run": dry_run or None})
    patience_s = _PATIENCE_S * len(definitions)
    return Call(
        "PATCH", "/programs", reader(Applied), params=params, headers=headers, content=content, patience_s=patience_s
    )


def promote(
    program_id: str,
    *,
    session_id: str | None = None,
    expected_revision: int | None = None,
    force: bool = False,
    reason: str | None = None,
) -> Call[Program]:
    """Makes V2's own definition, if it is at the expected revision, everyone's. `demote` undoes it.

    V2 must get all calls, and no plan may be under way; with `force` and a `reason` neither is asked for.

    Raises:
        ProgramNotFound: V2 has no definition of its own of it.
        StaleRevision: V2's own definition has another revision.
        PlanConflict: V2 does not get all calls, or a plan is under way.
    """
    headers = {} if expected_revision is None else {"if-match": f'"{expected_revision}"'}
    call = post(f"/programs/{segment(program_id)}/promote", Program, members(force=force or None, reason=reason))
    return replace(call, params=given({"session_id": session_id}), headers={**call.headers, **headers})


def demote(program_id: str, *, session_id: str | None = None, reason: str | None = None) -> Call[Program]:
    """Undoes the last promotion: V1 has its former definition again, and V2 alone the promoted one.

    Raises:
        RollbackImpossible: the program has changed since, or was not promoted.
    """
    call = post(f"/programs/{segment(program_id)}/demote", Program, members(reason=reason))
    return replace(call, params=given({"session_id": session_id}))


def restore(
    program_id: str,
    *,
    revision: int | None = None,
    deletion: int | None = None,
    session_id: str | None = None,
    reason: str | None = None,
) -> Call[Program]:
    """Brings a deleted program back, or gives a program the definition of a former revision.

    It is the program of the newest deletion that the key may restore, or of the `deletion` that is named.

    Raises:
        ProgramNotFound: no such program, deletion or revision is kept.
        ProgramExists: the program is there, and no revision is named.
        Forbidden: the program belongs to another owner.
    """
    body = members(revision=revision, deletion=deletion, reason=reason)
    call = post(f"/programs/{segment(program_id)}/restore", Program, body)
    return replace(call, params=given({"session_id": session_id}))


def deletions(program_id: str, *, session_id: str | None = None, limit: int | None = None) -> Listing[ProgramDeletion]:
    """Lists the deletions of programs of this id that the key may restore, the newest first."""
    path = f"/programs/{segment(program_id)}/deletions"
    return Listing(path, Page[ProgramDeletion], limit, {"session_id": session_id})


def show(program_id: str, *, session_id: str | None = None, pool_version: str | None = None) -> Call[Program]:
    """Reads a program: the session's, or else the global one. With `pool_version="v2"` as V2's own definition has it.

    Raises:
        ProgramNotFound: there is none.
    """
    params = {"session_id": session_id, "pool_version": pool_version}
    return get(f"/programs/{segment(program_id)}", Program, params)


def listed(*, session_id: str | None = None, limit: int | None = None) -> Listing[Program]:
    """Lists the programs of a session, or the global ones, by creation."""
    return Listing("/programs", Page[Program], limit, {"session_id": session_id})


def delete(program_id: str, *, session_id: str | None = None, pool_version: str | None = None) -> Call[None]:
    """Deletes a program, or with `pool_version="v2"` V2's own definition alone; calls that run go on.

    `restore` brings it back. With a session it is exactly the session's: the global program stays.

    Raises:
        ProgramNotFound: there is none.
        Forbidden: the program belongs to another owner.
    """
    path = f"/programs/{segment(program_id)}"
    params = given({"session_id": session_id, "pool_version": pool_version})
    return Call("DELETE", path, nothing, params=params, is_idempotent=True)


def revisions(
    program_id: str,
    *,
    session_id: str | None = None,
    pool_version: str | None = None,
    before: int | None = None,
    limit: int | None = None,
) -> Listing[ProgramRevision]:
    """Lists the definitions that a program has and had, the newest first; with `before` those before a revision.

    With `pool_version="v2"` they are those that V2 alone has and had.
    """
    path = f"/programs/{segment(program_id)}/revisions"
    params = {"session_id": session_id, "pool_version": pool_version}
    return Listing(path, Page[ProgramRevision], limit, params, first=before)


def _body(definition: Definition | Mapping[str, Any]) -> Any:
    """The body of a definition. A signature out of an answer has a member that is only in answers."""
    if not isinstance(definition, Definition):
        return dict(definition)
    if isinstance(definition.signature, Signature) and definition.signature.derived:
        signature = msgspec.structs.replace(definition.signature, derived=False)
        return msgspec.structs.replace(definition, signature=signature)
    return definition
