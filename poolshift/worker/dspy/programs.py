"""Programs of DSPy's types: a module that is built from the signature, on the LM that comes with the call.

A worker imports this module only to load such a program, unless the zygote has preloaded it: DSPy is slow to import.
"""

import keyword
import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final

import dspy
import msgspec
import pydantic

from poolshift.worker.definitions import Definition, Field, FieldType, Signature
from poolshift.worker.dspy.annotations import Arguments, jsonable
from poolshift.worker.dspy.client import ask, ask_beside_others, failures_of
from poolshift.worker.dspy.modules import ModuleProgram
from poolshift.worker.dspy.signatures import parse_text, signature_of
from poolshift.worker.dspy.states import SavedPredict
from poolshift.worker.dspy.streaming import OutputEvents, run_streamed
from poolshift.worker.dspy.tools import tool
from poolshift.worker.dspy.trial import LMTrial
from poolshift.worker.dspy.usage import counted_for
from poolshift.worker.errors import LMNotConfigured
from poolshift.worker.lm import LMRun
from poolshift.worker.loading import Emit, EntrypointError, TaskEmit
from poolshift.worker.types.fields import checked_by_schemas
from poolshift.worker.types.inputs import InputValidator
from poolshift.worker.types.outputs import OutputValidator

_TYPES: Final[dict[FieldType, Any]] = {
    "string": str,
    "integer": int,
    "number": float,
    "boolean": bool,
    "array": list[Any],
    "object": dict[str, Any],
    "any": Any,
}
# Names that DSPy reserves in the call of a module.
_TAKEN = frozenset({"self", "signature", "demos", "config", "lm", "prediction", "new_signature"})
# Names that DSPy adds to a signature.
_REASONING = "reasoning"
_OF_REACT = frozenset({"trajectory", "next_thought", "next_tool_name", "next_tool_args", "max_iters"})


def load(definition: Definition, allowed_modules: tuple[str, ...]) -> "DSPyProgram | ModuleProgram | LMTrial":
    """Loads a program of any of DSPy's types, or the trial of an LM. Raises EntrypointError."""
    if definition.program_type == "lm_trial":
        return LMTrial(definition)
    if definition.program_type == "dspy":
        return ModuleProgram(definition, allowed_modules)
    return DSPyProgram(definition, allowed_modules)


class DSPyProgram:
    """A program with its DSPy module built."""

    def __init__(self, definition: Definition, allowed_modules: tuple[str, ...]) -> None:
        """Raises EntrypointError if a tool cannot be one, or if the program's state or signature is not a valid one."""
        self.signature, annotations = _read_signature(definition.signature)
        self._arguments = Arguments(annotations)
        checked = checked_by_schemas(self.signature)
        self._checked_inputs = InputValidator(checked.inputs)
        self._checked_outputs = OutputValidator(checked.outputs)
        thinks = definition.program_type != "predict"
        reserved = _reserved_names(thinks=thinks)
        own = [one for one in self.signature.outputs if not (thinks and _is_reasoning(one))]
        self._inputs = _safe_names(self.signature.inputs, reserved)
        own_names = _safe_names(own, reserved)
        self._outputs = {one.name: own_names.get(one.name, _REASONING) for one in self.signature.outputs}
        self._texts = {
            one.name: self._outputs[one.name] for one in self.signature.outputs if _is_text(one, annotations)
        }
        fields = {
            names[one.name]: (annotations.get(one.name) or _annotation(one), _prompt(kind, one))
            for side, names, kind in (
                (self.signature.inputs, self._inputs, dspy.InputField),
                (own, own_names, dspy.OutputField),
            )
            for one in side
        }
        instructions = "\n\n".join(filter(None, (self.signature.description, definition.instructions)))
        built = dspy.make_signature(fields, instructions or None)
        self._module = _module(definition, built, allowed_modules)
        if definition.state is not None:
            self._restore(definition.state)

    def close(self) -> None:
        """Does nothing: a DSPy module holds nothing that outlives it."""

    def run(self, inputs: bytes | memoryview, emit: Emit, lm: LMRun | None) -> bytes:
        """Runs the program and returns the checked outputs as JSON.

        Raises:
            InvalidInputs, MalformedInputs: as the validators raise them.
            LMError: the LM failed, refused, was too slow, or gave an answer that does not fit the signature.
            LMNotConfigured: neither the session nor the service has an LM.
        """
        if lm is None:
            raise LMNotConfigured("neither the session nor the service has an LM", started=False)
        named, events = self._named(inputs), self._events(emit, lm)
        run = partial(self._module, **named) if events is None else partial(run_streamed, self._module, named, events)
        with failures_of(lm.settings), counted_for(lm):
            return self._checked(ask(lm, run), events)

    async def beside_others(self, inputs: bytes | memoryview, emit: TaskEmit, lm: LMRun | None) -> bytes:
        if lm is None:
            raise LMNotConfigured("neither the session nor the service has an LM", started=False)
        named, events = self._named(inputs), self._events(emit, lm)
        run = partial(self._module.acall, **named)
        if events is not None:
            run = partial(run_streamed, self._module, named, events, emit.has_room)
        with failures_of(lm.settings), counted_for(lm):
            return self._checked(await ask_beside_others(lm, run), events)

    def _named(self, inputs: bytes | memoryview) -> dict[str, Any]:
        """Checks the inputs, and gives them the names that the module has for them."""
        arguments = self._arguments.convert(self._checked_inputs.inputs(inputs))
        return {self._inputs[name]: value for name, value in arguments.items()}

    def _events(self, emit: Emit, lm: LMRun) -> OutputEvents | None:
        return OutputEvents(self._texts, emit, as_json=lm.settings.decodes_schema) if lm.streams else None

    def _checked(self, prediction: dspy.Prediction, events: OutputEvents | None) -> bytes:
        outputs = {name: jsonable(prediction.get(safe)) for name, safe in self._outputs.items()}
        checked = self._checked_outputs.outputs(outputs)
        if events is not None:
            events.finish(outputs)
        return checked

    def _restore(self, state: dict[str, Any]) -> None:
        """Takes over instructions, descriptions and demonstrations, and nothing else.

        A saved LM or configuration could send the session's key to an address that the state names.
        """
        # A module's state maps the names of its predictors to their states; a predictor's state is flat.
        by_name = {"self": state} if isinstance(self._module, dspy.Predict) else state
        names = self._inputs | self._outputs
        for name, predictor in self._module.named_predictors():
            try:
                one = msgspec.convert(by_name.get(name), SavedPredict)
            except msgspec.ValidationError as error:
                raise EntrypointError(f"not what DSPy saves of such a program: {error}", at="state") from None
            if len(one.signature.fields) != len(predictor.signature.fields):
                raise EntrypointError("the saved signature has other fields than the program's", at="state")
            demos = [{names.get(name, name): value for name, value in demo.items()} for demo in one.demos]
            try:
                predictor.load_state(
                    {"signature": msgspec.to_builtins(one.signature), "demos": demos, "lm": None, "fields": {}}
                )
            except (KeyError, ValueError, TypeError) as error:
                raise EntrypointError(f"not what DSPy saves of such a program: {error!r}", at="state") from None


def _read_signature(signature: Signature) -> tuple[Signature, dict[str, Any]]:
    """Returns the fields, and the annotations of those that DSPy's string form has."""
    if signature.text is None:
        return signature, {}
    parsed = parse_text(signature.text)
    annotations = {name: info.annotation for name, info in parsed.fields.items()}
    return signature if signature.outputs else signature_of(parsed, signature.text), annotations


def _module(definition: Definition, signature: type[dspy.Signature], allowed_modules: tuple[str, ...]) -> dspy.Module:
    match definition.program_type:
        case "react":
            return dspy.ReAct(signature, tools=[tool(one, allowed_modules) for one in definition.tools])
        case "chain_of_thought":
            return dspy.ChainOfThought(signature)
        case _:
            return dspy.Predict(signature)


def _reserved_names(*, thinks: bool) -> set[str]:
    return {*_TAKEN, _REASONING, *_OF_REACT} if thinks else set(_TAKEN)


def _safe_names(fields: Iterable[Field], taken: set[str]) -> dict[str, str]:
    """Finds for each field a name that DSPy and pydantic accept, near to its own; adds the names to `taken`."""
    names = {}
    for field in fields:
        safe = re.sub(r"\W", "_", field.name, flags=re.ASCII)
        if not safe[:1].isalpha() or keyword.iskeyword(safe) or hasattr(pydantic.BaseModel, safe):
            safe = f"field_{safe}"
        if hasattr(dspy.Signature, safe):
            safe = f"field_{safe}"
        unique, count = safe, 1
        while unique in taken:
            count += 1
            unique = f"{safe}_{count}"
        taken.add(unique)
        names[field.name] = unique
    return names


def _is_reasoning(field: Field) -> bool:
    """Tells if an output is the reasoning that a chain of thought, and the end of a react, have anyway."""
    return field.name == _REASONING and field.type == "string"


def _is_text(field: Field, annotations: dict[str, Any]) -> bool:
    """Tells if an output is a text that an LM writes freely: a `Literal` is of type `string`, too."""
    return field.type == "string" and annotations.get(field.name, str) is str


def _prompt(kind: Callable[..., Any], field: Field) -> Any:
    """Makes DSPy's input or output field, with the description that the prompt shows."""
    return kind(desc=field.description or field.name)


def _annotation(field: Field) -> Any:
    kind = _TYPES[field.type]
    return kind if field.required else kind | None
