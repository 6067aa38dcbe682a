"""The definition of a program: its signature and how to run it, the same on any worker of any version."""

from typing import Annotated, Any, Literal

import msgspec

FieldType = Literal["string", "integer", "number", "boolean", "array", "object", "any"]
ProgramType = Literal["predict", "chain_of_thought", "react", "dspy", "python", "metric", "lm_trial"]
"""`metric` is a program's metric, and `lm_trial` tries an LM: the service runs both, and no client creates one."""
ComparisonName = Literal["exact", "unordered", "ignore"]
ComparisonMeasure = Literal["number", "text"]
Compare = ComparisonName | Annotated[dict[ComparisonMeasure, float], msgspec.Meta(min_length=1, max_length=1)]
"""Comparison of an output in shadow calls: a name, or a measure with its bound, such as `{"number": 0.01}`.

`routing/shadow/comparators.py` has the comparison of each.
"""


class Field(msgspec.Struct, frozen=True, omit_defaults=True):
    """One input or output. `default` stands in for an input that is absent or null; `required` is then false.

    `schema` is a JSON Schema. In a derived signature it describes the annotation, which is what is checked.
    """

    name: str
    type: FieldType
    description: str | None = None
    required: bool = True
    default: Any = None
    schema: dict[str, Any] | None = None
    compare: Compare | None = None
    """None is exact."""
    secret: bool = False
    """True if no report may show the value."""


class Signature(msgspec.Struct, frozen=True, omit_defaults=True):
    """The inputs and outputs of a program.

    `derived` says that the program tells them: its function's annotations, or its DSPy module. Without outputs the
    signature is not known yet: the worker that checks the program derives it.
    """

    inputs: tuple[Field, ...]
    outputs: tuple[Field, ...]
    name: str | None = None
    description: str | None = None
    derived: bool = False
    text: str | None = None
    """DSPy's string form, if the signature was given so. The types in it say more than those of the fields."""


class Limits(msgspec.Struct, frozen=True, omit_defaults=True):
    """Limits of one program's calls, and its metrics. The service enforces them; a worker ignores them."""

    timeout_s: float | None = None
    """The longest deadline of a call, and the deadline of a call that sets none."""
    max_concurrency: int | None = None
    """The number of calls that run at once in each pool."""
    memory_mb: int | None = None
    """The memory of a worker that runs the program, in MiB. Beyond it the worker is killed."""
    metrics: bool = False
    """True if the program has metrics of its own."""


class Definition(msgspec.Struct, frozen=True, omit_defaults=True, eq=False, weakref=True):
    """All that a worker needs to load a program.

    A definition is equal to itself alone. The catalogue of programs makes programs with the same definition share one,
    so that everyone else tells definitions apart by identity.
    """

    program_type: ProgramType
    signature: Signature
    entrypoint: str | None = None
    instructions: str | None = None
    idempotent: bool = False
    state: dict[str, Any] | None = None
    """The state of an optimized program as DSPy saved it, for the types that are DSPy's."""
    tools: tuple[str, ...] = ()
    """Functions, as entrypoints name them, that the LM of a `react` program may call."""
    limits: Limits | None = None
    """None if the program has no limits of its own, as most."""
    shadow: bool = False
    """True if shadow calls may run the program although it is not idempotent."""
    metric: str | None = None
    """The function that scores the program's outputs, as an entrypoint names it."""
    metric_range: tuple[float, float] | None = None
    """The scores' range; None is 0 to 1."""
    shared: bool = False
    """True if everyone who may create programs may change the program, too. The service enforces ownership."""

    @property
    def uses_lm(self) -> bool:
        """True if the program needs a language model: each does but those of type `python`."""
        return self.program_type != "python"
