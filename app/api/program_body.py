"""The body that creates a program, checked at the border."""

import json
from typing import Annotated, Literal, Self

import msgspec
from pydantic import Field, JsonValue, model_validator

from app.api.base import Identifier, In
from poolshift.worker.definitions import Definition, Limits, Signature
from poolshift.worker.definitions import Field as FieldOf
from poolshift.worker.validation import type_of

MAX_FIELDS = 64
MAX_TOOLS = 32
MAX_STATE_BYTES = 512 * 1024
MAX_CONCURRENCY = 10_000
MAX_MEMORY_MB = 1024 * 1024
NO_LIMITS = Limits()

FieldName = Annotated[str, Field(min_length=1, max_length=128, pattern=r'^[^"\\\x00-\x1f]*$')]
"""A key in the JSON of inputs and outputs, which is written without escapes."""
Entrypoint = Annotated[
    str,
    Field(
        max_length=256,
        pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$",
        examples=["examples.text:keywords"],
    ),
]
ProgramTypeName = Literal["predict", "chain_of_thought", "react", "python"]
FieldTypeName = Literal["string", "integer", "number", "boolean", "array", "object"]


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
        """True if a call must have this input."""
        return self.default is None if self.required is None else self.required


class OutputField(In):
    """An output."""

    name: FieldName
    type: FieldTypeName
    description: str | None = Field(None, max_length=4096)
    required: bool = True


class SignatureBody(In):
    """The inputs and outputs of a program."""

    name: str | None = Field(None, max_length=128)
    description: str | None = Field(None, max_length=16384)
    inputs: list[InputField] = Field(max_length=MAX_FIELDS)
    outputs: list[OutputField] = Field(min_length=1, max_length=MAX_FIELDS)

    def signature(self) -> Signature:
        """Converts the body for the pools."""
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
    idempotent: bool = Field(False, description="It may be run again if its worker dies")
    state: dict[str, JsonValue] | None = Field(
        None, description="What DSPy's `save` wrote as JSON of an optimized program, for the types that are DSPy's"
    )
    tools: list[Entrypoint] = Field([], max_length=MAX_TOOLS, description="What the LM of a `react` program may call")
    timeout_s: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="The longest deadline of its calls, and their default"
    )
    max_concurrency: int | None = Field(
        None, ge=1, le=MAX_CONCURRENCY, description="Its calls that run at once in each pool; others wait"
    )
    memory_mb: int | None = Field(
        None, ge=1, le=MAX_MEMORY_MB, description="A worker that grows past it while it runs the program is killed"
    )
    metrics: bool = Field(False, description="The program has metrics of its own")
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
        """Converts the body for the pools."""
        return Definition(
            self.program_type,
            self.signature.signature(),
            self.entrypoint,
            self.instructions,
            self.idempotent,
            self.state,
            tuple(self.tools),
            self._limits(),
        )

    def _limits(self) -> Limits | None:
        limits = Limits(self.timeout_s, self.max_concurrency, self.memory_mb, self.metrics)
        return None if limits == NO_LIMITS else limits


def _check_writable(value: JsonValue, what: str) -> None:
    """Raises ValueError for values that Python reads but cannot write: NaN, infinities, half a surrogate pair."""
    try:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError(f"{what} contains half a surrogate pair, which is not text") from None
    except ValueError:
        raise ValueError(f"{what} has a number in it that is not finite") from None
    except RecursionError:
        raise ValueError(f"{what} is nested too deeply") from None
