"""Programs: `/programs` and their revisions."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from poolshift.client.calls import Call, Listing, Page, encoded, get, given, nothing, post, reader, segment


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


class Definition(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A program to create."""

    program_type: str
    """`python`, `dspy`, `predict`, `chain_of_thought` or `react`."""
    id: str | None = None
    signature: Signature | str | None = None
    """The fields, or DSPy's string form. Programs of the types `python` and `dspy` can tell it themselves."""
    entrypoint: str | None = None
    instructions: str | None = None
    idempotent: bool = False
    state: dict[str, Any] | None = None
    tools: list[str] = []
    timeout_s: float | None = None
    max_concurrency: int | None = None
    memory_mb: int | None = None
    metrics: bool = False
    shadow: bool = False
    """True if shadow calls may run it although it is not idempotent."""
    metric: str | None = None
    metric_range: tuple[float, float] | None = None
    session_id: str | None = None


class OwnDefinition(msgspec.Struct, frozen=True, kw_only=True):
    """The definition of a program that V2 alone runs."""

    program_type: str
    signature: Signature
    revision: int
    created_at: datetime
    created_by: str | None = None
    entrypoint: str | None = None
    instructions: str | None = None
    idempotent: bool = False
    has_state: bool = False
    tools: list[str] = []
    timeout_s: float | None = None
    max_concurrency: int | None = None
    memory_mb: int | None = None
    metrics: bool = False
    shadow: bool = False
    metric: str | None = None
    metric_range: tuple[float, float] | None = None


class Program(msgspec.Struct, frozen=True, kw_only=True):
    """A program and its use."""

    id: str
    program_type: str
    signature: Signature
    revision: int
    created_at: datetime
    session_id: str | None = None
    entrypoint: str | None = None
    instructions: str | None = None
    idempotent: bool = False
    has_state: bool = False
    tools: list[str] = []
    timeout_s: float | None = None
    max_concurrency: int | None = None
    memory_mb: int | None = None
    metrics: bool = False
    shadow: bool = False
    metric: str | None = None
    metric_range: tuple[float, float] | None = None
    execution_count: int = 0
    last_executed_at: datetime | None = None
    v2: OwnDefinition | None = None
    """V2's own definition, if it has one."""


class ProgramRevision(msgspec.Struct, frozen=True, kw_only=True):
    """One definition that a program has or had."""

    revision: int
    definition: dict[str, Any]
    """The definition that `put_program` takes, without members that have their default."""
    created_at: datetime
    created_by: str | None = None


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


def promote(program_id: str, *, session_id: str | None = None, expected_revision: int | None = None) -> Call[Program]:
    """Makes V2's own definition, if it is at the expected revision, everyone's.

    Raises:
        ProgramNotFound: V2 has no definition of its own of it.
        StaleRevision: V2's own definition has another revision.
    """
    headers = {} if expected_revision is None else {"if-match": f'"{expected_revision}"'}
    path = f"/programs/{segment(program_id)}/promote"
    return Call("POST", path, reader(Program), params=given({"session_id": session_id}), headers=headers)


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

    Raises:
        ProgramNotFound: there is none.
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
