"""The body that creates a program, checked at the border."""

import json
import math
from typing import Annotated, Any, Literal, Self

import msgspec
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    JsonValue,
    ValidationError,
    field_validator,
    model_validator,
)

from app.api.base import Identifier, In, Matching
from app.api.programs.schema_bounds import check_schema
from poolshift.worker.definitions import Compare as KeptCompare
from poolshift.worker.definitions import ComparisonName, Definition, Limits, Signature
from poolshift.worker.definitions import Field as FieldOf
from poolshift.worker.types.fields import type_of
from poolshift.worker.types.schemas import allows_type, type_of_schema, types_of_schema

MAX_FIELDS = 64
DERIVED = Signature((), (), derived=True)
"""A signature that the check of a program derives (`with_derived`)."""
MAX_TOOLS = 32
MAX_STATE_BYTES = 512 * 1024
MAX_TEXT_LENGTH = 8192
"""The length of a signature in DSPy's string form."""
MAX_CONCURRENCY = 10_000
MAX_MEMORY_MB = 1024 * 1024
NO_LIMITS = Limits()
_LIMITS = Limits.__struct_fields__
_CONVERTED = frozenset({"signature", "tools", "limits"})
_AS_THEY_ARE = tuple(name for name in Definition.__struct_fields__ if name not in _CONVERTED)
"""Members of a definition that the body has under the same name and with the same type."""
_members_of = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode

FieldName = Annotated[
    str,
    Field(min_length=1, max_length=128),
    Matching(r'^[^"\\\x00-\x1f]*$', "the name of a field has no double quotes, backslashes or control characters"),
]
"""A key in the JSON of inputs and outputs, which is written without escapes."""
ENTRYPOINT_PATTERN = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$"


Entrypoint = Annotated[
    str,
    Field(max_length=256, examples=["examples.text:keywords"]),
    Matching(
        ENTRYPOINT_PATTERN,
        "an entrypoint is `module:function` or `module:Class`, as `shop.prices:quote`, a name of the module's own",
    ),
]
ProgramTypeName = Literal["predict", "chain_of_thought", "react", "dspy", "python"]
FieldTypeName = Literal["string", "integer", "number", "boolean", "array", "object", "any"]
JsonSchema = Annotated[dict[str, JsonValue], AfterValidator(check_schema)]


class NumberTolerance(In):
    """Two numbers are the same if they differ by at most this, also inside arrays and objects."""

    number: float = Field(ge=0, allow_inf_nan=False)


class TextSimilarity(In):
    """Two texts are the same if they are at least so similar: 1 is equal, 0 has nothing in common."""

    text: float = Field(gt=0, le=1, allow_inf_nan=False)


Compare = ComparisonName | NumberTolerance | TextSimilarity


class _TypedField(In):
    """A field with its type, which a JSON Schema may tell."""

    name: FieldName
    type: FieldTypeName | None = Field(None, description="By default the one type that `schema` allows")
    json_schema: JsonSchema | None = Field(None, alias="schema", description="A JSON Schema, draft 2020-12")
    description: str | None = Field(None, max_length=4096)
    secret: bool = Field(False, description="No report of shadow calls shows the value")

    @model_validator(mode="after")
    def _has_a_type(self) -> Self:
        if self.type is None and self.json_schema is None:
            raise ValueError("a field needs a `type` or a `schema`")
        if self.type is not None and self.json_schema is not None and not allows_type(self.json_schema, self.type):
            allowed = " or ".join(sorted(types_of_schema(self.json_schema)))
            alone = f"{allowed} alone" if allowed else "nothing"
            raise ValueError(f"no value fits both: the `type` is {self.type!r}, and the `schema` allows {alone}")
        return self

    @property
    def field_type(self) -> FieldTypeName:
        """The type that is given, or the one that the schema allows."""
        return self.type or type_of_schema(self.json_schema or {})


class InputField(_TypedField):
    """An input. It is required unless it has a default, or says that it is not."""

    required: bool | None = None
    default: JsonValue = None

    @model_validator(mode="after")
    def _default_fits(self) -> Self:
        if self.default is not None:
            if self.required:
                raise ValueError("an input with a default is not required")
            _check_writable(self.default, "the default")
            try:
                msgspec.convert(self.default, type_of(self.field_type), strict=True)
            except msgspec.ValidationError as error:
                raise ValueError(f"the default does not fit the type: {error}") from None
        return self

    @property
    def is_required(self) -> bool:
        """True if a call must have this input."""
        return self.default is None if self.required is None else self.required


class OutputField(_TypedField):
    """An output."""

    required: bool = True
    compare: Compare = Field("exact", description="The comparison of V1's and V2's values in shadow calls")


class SignatureBody(In):
    """The inputs and outputs of a program."""

    name: str | None = Field(None, max_length=128)
    description: str | None = Field(None, max_length=16384)
    inputs: list[InputField] = Field(max_length=MAX_FIELDS)
    outputs: list[OutputField] = Field(min_length=1, max_length=MAX_FIELDS)

    def signature(self) -> Signature:
        """Converts the body for the pools."""
        inputs = [
            FieldOf(
                one.name,
                one.field_type,
                one.description,
                one.is_required,
                one.default,
                one.json_schema,
                secret=one.secret,
            )
            for one in self.inputs
        ]
        outputs = [
            FieldOf(
                one.name,
                one.field_type,
                one.description,
                one.required,
                schema=one.json_schema,
                compare=_compare(one.compare),
                secret=one.secret,
            )
            for one in self.outputs
        ]
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
        "from it. Without it the program tells it: by its annotations (`python`), or by its module (`dspy`)",
    )
    entrypoint: Entrypoint | None = Field(
        None,
        description="`module:function` or `module:Class` for programs of type `python`, `module:Class` for those of "
        "type `dspy`",
    )
    instructions: str | None = Field(None, max_length=65536)
    idempotent: bool = Field(False, description="It may be run again if its worker dies")
    state: dict[str, JsonValue] | None = Field(
        None, description="What DSPy's `save` wrote as JSON of an optimized program, for the types that are DSPy's"
    )
    tools: list[Entrypoint] = Field([], max_length=MAX_TOOLS, description="What the LM of a `react` program may call")
    timeout_s: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="The longest deadline of its calls and jobs, and their default; `JOB_TIMEOUT_S` at most",
    )
    max_concurrency: int | None = Field(
        None, ge=1, le=MAX_CONCURRENCY, description="Its calls that run at once in each pool; others wait"
    )
    memory_mb: int | None = Field(
        None, ge=1, le=MAX_MEMORY_MB, description="A worker that grows past it while it runs the program is killed"
    )
    metrics: bool = Field(False, description="The program has metrics of its own")
    shadow: bool = Field(False, description="Shadow calls may run it although it is not idempotent")
    metric: Entrypoint | None = Field(None, description="The function that scores its outputs")
    metric_range: tuple[float, float] | None = Field(
        None, description="The lowest and the highest score, the better one last; 0 and 1 by default"
    )
    shared: bool = Field(False, description="Keys of other owners may change and delete the program, too")
    session_id: Identifier | None = None

    @field_validator("metric_range", mode="before")
    @classmethod
    def _range_of_json(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value  # strict mode takes no list for a tuple

    @model_validator(mode="after")
    def _range_goes_with_a_metric(self) -> Self:
        if self.metric_range is not None:
            low, high = self.metric_range
            if self.metric is None:
                raise ValueError("a metric_range is for a program with a metric")
            if not (low < high and math.isfinite(high - low)):
                raise ValueError("metric_range is the lowest and the highest score, both finite")
        return self

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
        if self.signature is None and self.program_type not in ("python", "dspy"):
            raise ValueError(f"a program of type {self.program_type!r} needs a signature")
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
        converted: dict[str, Any] = {
            "signature": DERIVED if self.signature is None else self.signature.signature(),
            "tools": tuple(self.tools),
            "limits": self._limits(),
        }
        return Definition(**converted, **{name: getattr(self, name) for name in _AS_THEY_ARE})

    def _limits(self) -> Limits | None:
        limits = Limits(**{name: getattr(self, name) for name in _LIMITS})
        return None if limits == NO_LIMITS else limits


def body_of(definition: bytes | msgspec.Raw) -> dict[str, msgspec.Raw]:
    """Returns the body of a definition's JSON, as `ProgramBody` takes it: the reverse of `ProgramBody.definition`."""
    members = _members_of(definition)
    members |= _members_of(members.pop("limits", b"{}"))
    signature = _members_of(members["signature"])
    if "text" in signature:
        members["signature"] = signature["text"]
    elif "derived" in signature:
        del members["signature"]
    return members


def _compare(compare: Compare) -> KeptCompare | None:
    match compare:
        case NumberTolerance(number=tolerance):
            return {"number": tolerance}
        case TextSimilarity(text=similarity):
            return {"text": similarity}
        case name:
            return None if name == "exact" else name


def with_derived(definition: Definition, derived: Signature) -> Definition:
    """Completes a definition by its derived signature. Raises ValueError if that is over the bounds of a given one."""
    fields = msgspec.json.encode({"inputs": derived.inputs, "outputs": derived.outputs})
    try:
        SignatureBody.model_validate_json(fields)
    except ValidationError as error:
        reason = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()[:3])
        raise ValueError(f"the derived signature is not one: {reason}") from None
    given = definition.signature
    signature = msgspec.structs.replace(derived, text=given.text, derived=given.derived)
    return msgspec.structs.replace(definition, signature=signature)


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
