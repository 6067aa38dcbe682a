"""What comes in and goes out as JSON, checked at the border."""

import json
from datetime import datetime, timedelta
from typing import Annotated, Any, Generic, Literal, Self, TypeVar

import msgspec
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    model_validator,
)

from config.lm import ApiBase, ApiKey
from pools.protocol import PoolSnapshot
from poolshift.worker.definitions import Definition, Signature
from poolshift.worker.definitions import Field as FieldOf
from poolshift.worker.lm import LMSettings
from poolshift.worker.validation import type_of
from routing.catalog.jobs import Execution, ExecutionStatus
from routing.catalog.lms import StoredLM
from routing.catalog.programs import StoredProgram
from routing.catalog.sessions import StoredSession
from routing.rollout.model import Rollout, Source, to_basis_points
from routing.versions import Version

_ID = "[A-Za-z0-9][A-Za-z0-9._~:-]*"
ID_PATTERN = f"^{_ID}$"
"""As pydantic, which has Rust's regular expressions, and the OpenAPI document need it."""
ID_PATTERN_OF_RE = rf"\A{_ID}\Z"
"""The same for Python's `re`, in which `$` would let a newline follow."""
MAX_ID_LENGTH = 128
MAX_FIELDS = 64
MAX_TOOLS = 32
MAX_STATE_BYTES = 512 * 1024
MAX_KEY = 2**63 - 1
"""Of a row in the database; a cursor over it would be the database's error."""
MAX_REVISION = 2**31 - 1

FieldName = Annotated[str, Field(min_length=1, max_length=128, pattern=r'^[^"\\\x00-\x1f]*$')]
"""It is a key of the JSON that goes in and out, as it stands there."""
Entrypoint = Annotated[
    str,
    Field(
        max_length=256,
        pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$",
        examples=["examples.text:keywords"],
    ),
]
Identifier = Annotated[str, Field(pattern=ID_PATTERN, max_length=MAX_ID_LENGTH, examples=["invoices-42"])]
ProgramTypeName = Literal["predict", "chain_of_thought", "react", "python"]
FieldTypeName = Literal["string", "integer", "number", "boolean", "array", "object"]


Item = TypeVar("Item")


def _check_writable(value: JsonValue, what: str) -> None:
    """Raises ValueError for what Python reads as JSON and nobody can write: NaN, infinities, half a surrogate pair."""
    try:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError(f"{what} has half a surrogate pair in it, which is no text") from None
    except ValueError:
        raise ValueError(f"{what} has a number in it that is not finite") from None
    except RecursionError:
        raise ValueError(f"{what} is nested too deeply") from None


class In(BaseModel):
    """A body: unknown fields are refused, and so is `"10"` or `true` for a number."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Out(BaseModel):
    """An answer."""

    model_config = ConfigDict(frozen=True)


class InputField(In):
    """An input. It is required unless it has a default, or says that it is not."""

    name: FieldName
    type: FieldTypeName
    description: str | None = Field(None, max_length=4096)
    required: bool | None = None
    default: JsonValue = None

    @model_validator(mode="after")
    def _default_fits(self) -> Self:
        if self.default is not None:
            if self.required:
                raise ValueError("an input with a default is not required")
            _check_writable(self.default, "the default")
            try:
                msgspec.convert(self.default, type_of(self.type), strict=True)
            except msgspec.ValidationError as error:
                raise ValueError(f"the default does not fit the type: {error}") from None
        return self

    @property
    def is_required(self) -> bool:
        """Whether a call must have it."""
        return self.default is None if self.required is None else self.required


class OutputField(In):
    """An output."""

    name: FieldName
    type: FieldTypeName
    description: str | None = Field(None, max_length=4096)
    required: bool = True


class SignatureBody(In):
    """What goes into a program and what comes out."""

    name: str | None = Field(None, max_length=128)
    description: str | None = Field(None, max_length=16384)
    inputs: list[InputField] = Field(max_length=MAX_FIELDS)
    outputs: list[OutputField] = Field(min_length=1, max_length=MAX_FIELDS)

    def signature(self) -> Signature:
        """The same as the pools have it."""
        inputs = [FieldOf(one.name, one.type, one.description, one.is_required, one.default) for one in self.inputs]
        outputs = [FieldOf(one.name, one.type, one.description, one.required) for one in self.outputs]
        return Signature(tuple(inputs), tuple(outputs), self.name, self.description)

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        for side in (self.inputs, self.outputs):
            names = [field.name for field in side]
            if len(set(names)) != len(names):
                raise ValueError("two fields have the same name")
        return self


class ProgramBody(In):
    """A program to create."""

    id: Identifier | None = None
    program_type: ProgramTypeName
    signature: SignatureBody
    entrypoint: Entrypoint | None = Field(None, description="`module:function`, for programs of type `python`")
    instructions: str | None = Field(None, max_length=65536)
    idempotent: bool = Field(False, description="It may be run again where its worker died")
    state: dict[str, JsonValue] | None = Field(
        None, description="What DSPy's `save` wrote as JSON of an optimized program, for the types that are DSPy's"
    )
    tools: list[Entrypoint] = Field([], max_length=MAX_TOOLS, description="What the LM of a `react` program may call")
    session_id: Identifier | None = None

    @model_validator(mode="after")
    def _tools_go_with_react(self) -> Self:
        if (self.program_type == "react") != bool(self.tools):
            raise ValueError("tools are for programs of type 'react', and needed there")
        names = [one.partition(":")[2] for one in self.tools]
        if len({*names, "finish"}) <= len(names):
            raise ValueError("two tools have the same name, or one is called 'finish', which DSPy takes for itself")
        return self

    @model_validator(mode="after")
    def _entrypoint_goes_with_python(self) -> Self:
        if (self.program_type == "python") != (self.entrypoint is not None):
            raise ValueError("an entrypoint is for programs of type 'python', and needed there")
        return self

    @model_validator(mode="after")
    def _state_is_dspys_and_small(self) -> Self:
        if self.state is not None:
            if self.program_type == "python":
                raise ValueError("a state is for programs of DSPy's types")
            _check_writable(self.state, "the state")
            if len(msgspec.json.encode(self.state)) > MAX_STATE_BYTES:
                raise ValueError(f"the state is over {MAX_STATE_BYTES} bytes")
        return self

    def definition(self) -> Definition:
        """The same as the pools have it."""
        return Definition(
            self.program_type,
            self.signature.signature(),
            self.entrypoint,
            self.instructions,
            self.idempotent,
            self.state,
            tuple(self.tools),
        )


class LMBody(In):
    """An LM. `local` is the small model of the service itself, where it runs one; `none` is no LM."""

    model: str = Field(min_length=1, max_length=256, pattern=r"^[^\s\x00-\x1f]+$", examples=["openai/gpt-5-mini"])
    api_base: ApiBase | None = Field(None, max_length=2048, examples=["http://127.0.0.1:11434/v1"])
    api_key: ApiKey | None = Field(None, min_length=1, max_length=8192)
    temperature: float | None = Field(None, ge=0, le=2)
    max_tokens: int | None = Field(None, ge=1, le=1_000_000)

    def settings(self) -> LMSettings:
        """The same as the pools have it."""
        key = self.api_key.get_secret_value() if self.api_key is not None else None
        return LMSettings(self.model, self.api_base, key, self.temperature, self.max_tokens)


class LMView(Out):
    """An LM that is in force."""

    model: str = Field(description="`none` where there is none")
    api_base: str | None
    has_api_key: bool
    temperature: float | None
    max_tokens: int | None
    set_for: Literal["session", "everyone"]
    updated_by: str | None = Field(description="Null where it comes from the service's environment")
    updated_at: datetime | None


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


class Page(Out, Generic[Item]):
    """Some items; `next_cursor` asks for those that follow, and is null at the end."""

    items: list[Item]
    next_cursor: str | None


class ExecuteBody(In):
    """A program's inputs."""

    inputs: dict[str, JsonValue]
    session_id: Identifier | None = None
    timeout_s: float | None = Field(None, gt=0, description="The deadline in seconds, for queue and run together")


class UsageView(Out):
    """Tokens that an execution used, as the LM counts them."""

    prompt_tokens: int
    completion_tokens: int


class ExecuteView(Out):
    """How an execution ended well."""

    execution_id: str
    program_id: str
    pool_version: Version
    outputs: dict[str, JsonValue]
    duration_ms: float = Field(description="From the request to the answer, in milliseconds")
    usage: UsageView | None = Field(None, exclude_if=lambda usage: usage is None, description="Only of DSPy programs")


class ProblemView(Out):
    """An error (RFC 9457)."""

    model_config = ConfigDict(frozen=True, extra="allow")

    type: str
    title: str
    status: int
    detail: str
    code: str
    category: Literal["request", "session", "program", "upstream", "resource", "timeout", "communication"]
    pool_version: Version | None
    execution_id: str | None
    retry_safe: bool


class ExecutionView(Out):
    """A long run."""

    execution_id: str
    program_id: str
    session_id: str | None
    status: ExecutionStatus
    pool_version: Version | None = Field(description="The version that runs it, or whose queue it is in")
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None


class LongRunView(ExecutionView):
    """A long run and what came of it: what a synchronous call would have been answered with."""

    result: ExecuteView | None
    problem: ProblemView | None


class SessionView(Out):
    """A session and what it holds."""

    id: str
    created_at: datetime
    last_seen_at: datetime
    expires_at: datetime
    pool_version: Version | None = Field(description="The version that served it last")
    execution_count: int
    program_count: int


class RolloutView(Out):
    """The flag."""

    canary_percent: float
    pool_version: Version | None = Field(description="What POOL_VERSION pins everything to, if it does")
    revision: int
    source: Source
    updated_at: datetime
    updated_by: str
    reason: str | None


class RevisionView(Out):
    """One change of the flag."""

    revision: int
    from_percent: float | None
    to_percent: float
    source: Source
    updated_at: datetime
    updated_by: str
    reason: str | None


def _steps_of_basis_points(percent: float) -> float:
    to_basis_points(percent)
    return percent


class RolloutBody(In):
    """A change of the flag."""

    canary_percent: (
        Annotated[
            float,
            Field(ge=0, le=100, allow_inf_nan=False, description="In steps of 0.01"),
            AfterValidator(_steps_of_basis_points),
        ]
        | None
    ) = None
    reason: str | None = Field(None, max_length=1024)


class RollbackBody(In):
    """Why, and what becomes of calls that run on V2."""

    reason: str | None = Field(None, max_length=1024)
    in_flight: Literal["finish", "replay"] = Field(
        "finish", description="`replay`: idempotent ones are cancelled and run on V1; the others finish on V2"
    )


class WorkerView(Out):
    """One worker, measured on the process itself."""

    pid: int
    state: str
    age_s: float
    executions: int
    rss_bytes: int | None
    cpu_seconds: float | None
    open_fds: int | None


class PoolTotals(Out):
    """Since the start of the service."""

    dispatched: int
    worker_starts: int
    worker_exits: dict[str, int]
    cpu_seconds: float


class PoolView(Out):
    """One pool."""

    pool_version: Version
    ready: bool
    size: int
    busy: int
    idle: int
    starting: int
    stopping: int
    queue_depth: int
    utilization: float
    service_time_s: float = Field(description="Moving average of the time that a call takes on a worker")
    totals: PoolTotals
    workers: list[WorkerView]


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


def execution_view(execution: Execution) -> ExecutionView:
    """A long run as it is shown in a list."""
    return ExecutionView(**_execution_members(execution))


def long_run_view(execution: Execution) -> LongRunView:
    """A long run with what came of it."""
    body, succeeded = execution.body, execution.status is ExecutionStatus.SUCCEEDED
    return LongRunView(
        **_execution_members(execution),
        result=ExecuteView.model_validate_json(body) if body is not None and succeeded else None,
        problem=ProblemView.model_validate_json(body) if body is not None and not succeeded else None,
    )


def _execution_members(execution: Execution) -> dict[str, Any]:
    return {
        "execution_id": execution.id,
        "program_id": execution.program_id,
        "session_id": execution.session_id,
        "status": execution.status,
        "pool_version": execution.pool_version,
        "created_at": execution.created_at,
        "started_at": execution.started_at,
        "ended_at": execution.ended_at,
    }


def lm_view(settings: LMSettings, stored: StoredLM | None) -> LMView:
    """An LM as it is shown: without its key."""
    return LMView(
        model=settings.model,
        api_base=settings.api_base,
        has_api_key=settings.api_key is not None,
        temperature=settings.temperature,
        max_tokens=settings.max_tokens,
        set_for="session" if stored is not None and stored.session_id is not None else "everyone",
        updated_by=stored.updated_by if stored is not None else None,
        updated_at=stored.updated_at if stored is not None else None,
    )


def session_view(session: StoredSession, ttl_s: float) -> SessionView:
    """A session as it is shown."""
    return SessionView(
        id=session.id,
        created_at=session.created_at,
        last_seen_at=session.last_seen_at,
        expires_at=session.last_seen_at + timedelta(seconds=ttl_s),
        pool_version=session.pool_version,
        execution_count=session.execution_count,
        program_count=session.program_count,
    )


def rollout_view(rollout: Rollout, pin: Version | None) -> RolloutView:
    """The flag as it is shown."""
    return RolloutView(
        canary_percent=rollout.canary_percent,
        pool_version=pin,
        revision=rollout.revision,
        source=rollout.source,
        updated_at=rollout.updated_at,
        updated_by=rollout.updated_by,
        reason=rollout.reason,
    )


def revision_view(rollout: Rollout) -> RevisionView:
    """One change as it is shown."""
    previous = rollout.previous_basis_points
    return RevisionView(
        revision=rollout.revision,
        from_percent=None if previous is None else previous / 100,
        to_percent=rollout.canary_percent,
        source=rollout.source,
        updated_at=rollout.updated_at,
        updated_by=rollout.updated_by,
        reason=rollout.reason,
    )


def pool_view(snapshot: PoolSnapshot) -> PoolView:
    """A pool as it is shown."""
    return PoolView(
        pool_version=Version(snapshot.version),
        ready=snapshot.is_ready,
        size=snapshot.size,
        busy=snapshot.busy,
        idle=snapshot.idle,
        starting=snapshot.starting,
        stopping=snapshot.stopping,
        queue_depth=snapshot.queue_depth,
        utilization=snapshot.utilization,
        service_time_s=snapshot.service_time_s,
        totals=PoolTotals(
            dispatched=snapshot.dispatched_total,
            worker_starts=snapshot.worker_starts_total,
            worker_exits={str(cause): count for cause, count in snapshot.worker_exits_total.items()},
            cpu_seconds=snapshot.cpu_seconds_total,
        ),
        workers=[WorkerView.model_validate(worker, from_attributes=True) for worker in snapshot.workers],
    )
