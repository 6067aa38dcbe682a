"""The body that creates a program, checked at the border."""

import json
from typing import Annotated, Any, Literal, Self

import msgspec
from pydantic import BeforeValidator, Field, JsonValue, ValidationError, model_validator

from app.api.base import Identifier, In
from poolshift.worker.definitions import Definition, Signature
from poolshift.worker.definitions import Field as FieldOf
from poolshift.worker.validation import type_of

MAX_FIELDS = 64
DERIVED = Signature((), ())
"""A signature that the check of a program derives (`with_derived`)."""
MAX_TOOLS = 32
MAX_STATE_BYTES = 512 * 1024
MAX_TEXT_LENGTH = 8192
"""The length of a signature in DSPy's string form."""

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
ProgramTypeName = Literal["predict", "chain_of_thought", "react", "dspy", "python"]
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


class SignatureText(SignatureBody):
    """A signature in DSPy's string form. The worker that checks the program finds its fields."""

    inputs: list[InputField] = Field(default_factory=list)
    outputs: list[OutputField] = Field(default_factory=list)
    text: str

    def signature(self) -> Signature:
        return Signature((), (), text=self.text)


def _of_text(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if len(value) > MAX_TEXT_LENGTH:
        raise ValueError(f"a signature's string form has at most {MAX_TEXT_LENGTH} characters")
    return SignatureText(text=value)


class ProgramBody(In):
    """A program to create."""

    id: Identifier | None = None
    program_type: ProgramTypeName
    signature: Annotated[
        SignatureBody | None, BeforeValidator(_of_text, json_schema_input_type=SignatureBody | str | None)
    ] = Field(
        None,
        description="The fields, or DSPy's string form (`question -> answer: float`) for the types that DSPy builds "
        "from it. A program of type `dspy` may have none: then it is taken from the module",
    )
    entrypoint: Entrypoint | None = Field(
        None, description="`module:function` for programs of type `python`, `module:Class` for those of type `dspy`"
    )
    instructions: str | None = Field(None, max_length=65536)
    idempotent: bool = Field(False, description="It may be run again if its worker dies")
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
    def _entrypoint_goes_with_code(self) -> Self:
        if (self.program_type in ("python", "dspy")) != (self.entrypoint is not None):
            raise ValueError("an entrypoint is for programs of type 'python' or 'dspy', and needed there")
        return self

    @model_validator(mode="after")
    def _signature_goes_with_the_type(self) -> Self:
        if self.signature is None and self.program_type != "dspy":
            raise ValueError("a program has a signature, unless it is of type 'dspy'")
        if isinstance(self.signature, SignatureText) and self.program_type in ("python", "dspy"):
            raise ValueError("a signature in DSPy's string form is for programs that DSPy builds from a signature")
        if self.instructions is not None and self.program_type == "dspy":
            raise ValueError("a program of type 'dspy' has its instructions in its module, or in its state")
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
            DERIVED if self.signature is None else self.signature.signature(),
            self.entrypoint,
            self.instructions,
            self.idempotent,
            self.state,
            tuple(self.tools),
        )


def with_derived(definition: Definition, derived: Signature) -> Definition:
    """Completes a definition by its derived signature. Raises ValueError if that is over the bounds of a given one."""
    fields = msgspec.json.encode({"inputs": derived.inputs, "outputs": derived.outputs})
    try:
        SignatureBody.model_validate_json(fields)
    except ValidationError as error:
        reason = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()[:3])
        raise ValueError(f"the derived signature is not one: {reason}") from None
    return msgspec.structs.replace(
        definition, signature=msgspec.structs.replace(derived, text=definition.signature.text)
    )


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
