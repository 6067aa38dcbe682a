"""Executions: running a program once, many times, as a stream, or in the background as a job."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, TypeVar

import msgspec

from poolshift.client.calls import Call, Listing, Page, RawAnswer, encoded, get, given, members, reader, segment
from poolshift.client.errors import JobCancelled, JobInterrupted, JobNotOver, PoolshiftError
from poolshift.client.problems import problem_error

_Outputs = TypeVar("_Outputs")
SILENCE_S = 45.0
"""The longest silence of a stream, which the service breaks every 15 s."""
_MARGIN_S = 10.0
"""Seconds that a call may take beside the deadline of its program: the way there and back."""


class Usage(msgspec.Struct, frozen=True):
    """Tokens that an execution used."""

    prompt_tokens: int
    completion_tokens: int


class Execution(msgspec.Struct, frozen=True, kw_only=True):
    """One run of a program that has succeeded."""

    execution_id: str
    program_id: str
    pool_version: str
    outputs: dict[str, Any]
    duration_ms: float
    usage: Usage | None = None

    def outputs_as(self, kind: type[_Outputs]) -> _Outputs:
        """Converts the outputs to a msgspec struct, a dataclass or a TypedDict.

        Raises:
            msgspec.ValidationError: the outputs do not fit `kind`.
        """
        return msgspec.convert(self.outputs, kind)


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A run in the background. In a list of jobs it has neither `result` nor `problem`."""

    execution_id: str
    program_id: str
    status: str
    """`queued`, `running`, `succeeded`, `failed`, `cancelled` or `interrupted`."""
    created_at: datetime
    session_id: str | None = None
    pool_version: str | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    result: Execution | None = None
    problem: dict[str, Any] | None = None

    @property
    def is_over(self) -> bool:
        """True if the job does not change any more."""
        return self.status not in ("queued", "running")

    def outcome(self) -> Execution:
        """The execution that the job was.

        Raises:
            PoolshiftError: the job has failed, with the error that a call in the foreground would have had; or it is
                cancelled, interrupted, or not over.
        """
        if self.result is not None:
            return self.result
        error = problem_error(self.problem)
        if error is None:
            kind = {"cancelled": JobCancelled, "interrupted": JobInterrupted}.get(self.status, JobNotOver)
            error = kind(f"the job {self.execution_id!r} is {self.status}")
            error.execution_id = self.execution_id
        raise error


Item = Execution | PoolshiftError
"""The outcome of one item of a batch."""


class _Items(msgspec.Struct, frozen=True):
    items: list[dict[str, Any]]


def execute(
    program_id: str,
    inputs: Mapping[str, Any] | None = None,
    *,
    session_id: str | None = None,
    timeout_s: float | None = None,
    idempotent: bool = False,
    idempotency_key: str | None = None,
    pool_version: str | None = None,
    canary_key: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Call[Execution]:
    """Runs a program once and waits for its outputs.

    `timeout_s` is the deadline for queue and run together. If the answer is lost, the client sends the call again in
    two cases: `idempotent` says that the program may run twice; by an `idempotency_key` the service runs the call once,
    and answers again. `pool_version` forces a version (scope `admin`). `headers` are for a trace context.

    Raises:
        PoolshiftError: the program has not succeeded; each code has its class.
    """
    path = f"/programs/{segment(program_id)}/execute"
    body = {"inputs": inputs or {}, **members(session_id=session_id, timeout_s=timeout_s)}
    routing = _routing(pool_version, canary_key, idempotency_key, headers)
    return _run(path, body, reader(Execution), routing, timeout_s, is_idempotent=idempotent)


def stream(
    program_id: str,
    inputs: Mapping[str, Any] | None = None,
    *,
    session_id: str | None = None,
    timeout_s: float | None = None,
    idempotent: bool = False,
    pool_version: str | None = None,
    canary_key: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Call[Execution]:
    """Runs a program once and gives its events as they come; the last one is the execution.

    The arguments are those of `execute`, which explains them.

    Raises:
        PoolshiftError: the program has not succeeded; each code has its class. It may come after events.
    """
    call = execute(
        program_id,
        inputs,
        session_id=session_id,
        timeout_s=timeout_s,
        idempotent=idempotent,
        pool_version=pool_version,
        canary_key=canary_key,
        headers={**(headers or {}), "accept": "text/event-stream"},
    )
    return replace(call, patience_s=SILENCE_S)


def batch(
    program_id: str,
    inputs: Sequence[Mapping[str, Any]],
    *,
    session_id: str | None = None,
    timeout_s: float | None = None,
    idempotent: bool = False,
    idempotency_key: str | None = None,
    pool_version: str | None = None,
    canary_key: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Call[list[Item]]:
    """Runs a program once for each of many inputs. The outcomes are in the order of the inputs.

    An item that has failed is its error, which is not raised. `timeout_s` is the deadline of each item. The other
    arguments are those of `execute`.
    """
    path = f"/programs/{segment(program_id)}/batch"
    body = {"inputs": list(inputs), **members(session_id=session_id, timeout_s=timeout_s)}
    routing = _routing(pool_version, canary_key, idempotency_key, headers)
    return _run(path, body, _read_items, routing, None, is_idempotent=idempotent)


def submit(
    program_id: str,
    inputs: Mapping[str, Any] | None = None,
    *,
    session_id: str | None = None,
    timeout_s: float | None = None,
    webhook: str | None = None,
    idempotency_key: str | None = None,
    pool_version: str | None = None,
    canary_key: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Call[Job]:
    """Starts a job: a run of a program in the background, of which `wait` tells the outcome.

    The service tells `webhook`, a URL, of the job's end. The other arguments are those of `execute`.
    """
    path = f"/programs/{segment(program_id)}/execute"
    body = {"inputs": inputs or {}, **members(session_id=session_id, timeout_s=timeout_s)}
    body |= members(webhook=webhook)
    routing = {**_routing(pool_version, canary_key, idempotency_key, headers), "prefer": "respond-async"}
    return _run(path, body, reader(Job), routing, None, is_idempotent=False)


def show(execution_id: str) -> Call[Job]:
    """Reads a job, with its result or its problem if it is over.

    Raises:
        ExecutionNotFound: the job never was, or is no longer kept.
    """
    return get(f"/executions/{segment(execution_id)}", Job)


def events(execution_id: str, *, after: str | None = None) -> Call[Execution]:
    """Gives the events of a job as they come; the last one is its execution. `after` is the id of the last known event.

    If the connection breaks, the client goes on after the last event. The job runs whether anybody listens or not.

    Raises:
        PoolshiftError: the job has failed, as a call in the foreground would have; or it has been cancelled.
    """
    headers = {"accept": "text/event-stream", **given({"last-event-id": after})}
    call = get(f"/executions/{segment(execution_id)}", Execution)
    return replace(call, headers=headers, patience_s=SILENCE_S)


def listed(*, session_id: str | None = None, limit: int | None = None) -> Listing[Job]:
    """Lists the jobs of a session, or those of no session, the newest first."""
    return Listing("/executions", Page[Job], limit, {"session_id": session_id})


def cancel(execution_id: str) -> Call[Job]:
    """Cancels a job and kills its program; one that is over stays as it is."""
    return Call("DELETE", f"/executions/{segment(execution_id)}", reader(Job), is_idempotent=True)


def _routing(
    pool_version: str | None, canary_key: str | None, idempotency_key: str | None, headers: Mapping[str, str] | None
) -> dict[str, str]:
    named = {"x-pool-version": pool_version, "x-canary-key": canary_key, "idempotency-key": _quoted(idempotency_key)}
    return {**{name.lower(): value for name, value in (headers or {}).items()}, **given(named)}


def _quoted(key: str | None) -> str | None:
    """Writes an idempotency key as a string of a structured header (RFC 9651)."""
    if key is None:
        return None
    if not (0 < len(key) <= 255 and key.isascii() and key.isprintable()):
        raise ValueError(f"an idempotency key has 1 to 255 printable ASCII characters, got {key!r}")
    escaped = key.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _run(
    path: str, body: Any, read: Any, headers: Mapping[str, str], timeout_s: float | None, *, is_idempotent: bool
) -> Call[Any]:
    content, content_type = encoded(body)
    return Call(
        "POST",
        path,
        read,
        headers={**headers, **content_type},
        content=content,
        is_idempotent=is_idempotent or "idempotency-key" in headers,
        patience_s=0.0 if timeout_s is None else timeout_s + _MARGIN_S,
    )


def _read_items(raw: RawAnswer) -> list[Item]:
    return [_item(item) for item in msgspec.json.decode(raw.content, type=_Items).items]


def _item(item: dict[str, Any]) -> Item:
    return problem_error(item) or msgspec.convert(item, Execution)
