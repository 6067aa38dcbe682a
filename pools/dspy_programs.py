"""Programs of the types `predict` and `chain_of_thought`: a DSPy module on the LM that comes with the call.

Imported only where such a program is loaded, or ahead of all workers in the zygote: DSPy takes seconds to import.
"""

import keyword
import re
import signal
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import dspy
import msgspec
import pydantic

from pools import lm_spans
from pools.errors import InvalidOutputs, LMError, LMNotConfigured
from pools.lm import LMRun, LMSettings, LMUsage
from pools.loading import Emit, EntrypointError
from pools.programs import Field, FieldType, Program
from pools.validation import Validator

MAX_LMS = 32
"""A worker keeps the connections of so many LMs."""
MAX_DETAIL_LENGTH = 2000
"""Of what an LM or its endpoint said; the rest tells nobody more."""
_ALARM_INTERVAL_S = 0.1

# An answer is the LM's, never a memory's: what one session was told is nothing for another.
dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=False)

_TYPES: Final[dict[FieldType, Any]] = {
    "string": str,
    "integer": int,
    "number": float,
    "boolean": bool,
    "array": list[Any],
    "object": dict[str, Any],
}
# Names that DSPy takes for itself when a module is called.
_TAKEN = frozenset({"self", "signature", "demos", "config", "lm", "prediction", "new_signature"})
_REASONING = "reasoning"


class _SavedSignature(msgspec.Struct):
    instructions: str
    fields: list[dict[str, str]]


class _SavedPredict(msgspec.Struct):
    """What DSPy's `save` wrote of one predictor, but for its LM and for what only an optimizer needs."""

    signature: _SavedSignature
    demos: list[dict[str, Any]] = []


class _SavedChainOfThought(msgspec.Struct):
    predict: _SavedPredict


class _OutOfTime(BaseException):
    """The LM took too long; none of the libraries underneath may take it for a failure to be retried."""


class DSPyProgram:
    """A program with its DSPy module built."""

    def __init__(self, program: Program) -> None:
        """Raises EntrypointError where the program's state does not fit it."""
        signature = program.signature
        self._checked_inputs = Validator(signature.inputs)
        self._checked_outputs = Validator(signature.outputs)
        reserved = set(_TAKEN)
        thinks = program.program_type == "chain_of_thought"
        # An output of this name is the reasoning that a chain of thought has anyway.
        shown = [one for one in signature.outputs if thinks and one.name == _REASONING and one.type == "string"]
        if thinks:
            reserved.add(_REASONING)
        self._inputs = _safe_names(signature.inputs, reserved)
        self._outputs = _safe_names([one for one in signature.outputs if one not in shown], reserved)
        fields: dict[str, Any] = {}
        for one in signature.inputs:
            fields[self._inputs[one.name]] = _annotation(one), dspy.InputField(desc=one.description or one.name)
        for one in signature.outputs:
            if one not in shown:
                fields[self._outputs[one.name]] = _annotation(one), dspy.OutputField(desc=one.description or one.name)
        instructions = "\n\n".join(filter(None, (signature.description, program.instructions)))
        built = dspy.make_signature(fields, instructions or None)
        self._module = dspy.ChainOfThought(built) if thinks else dspy.Predict(built)
        self._outputs |= {one.name: _REASONING for one in shown}
        if program.state is not None:
            self._restore(program.state)

    def run(self, inputs: msgspec.Raw, emit: Emit, lm: LMRun | None) -> bytes:
        """The outputs as JSON, checked.

        Raises:
            InvalidInputs, MalformedInputs: as `Validator` says.
            LMError: the LM failed, refused, was too slow, or gave an answer that does not fit the signature.
            LMNotConfigured: there is none.
        """
        if lm is None:
            raise LMNotConfigured("neither the session nor the service has an LM", started=False)
        arguments = self._checked_inputs.inputs(inputs)
        named = {self._inputs[name]: value for name, value in arguments.items()}
        with _failures_of(lm.settings), dspy.track_usage() as tracker:
            try:
                with _no_longer_than(lm.budget_s):
                    prediction = _predict(self._module, lm.settings, named)
            finally:
                lm.usage = _total(tracker.usage_data.values())
            return self._checked_outputs.outputs({name: prediction.get(safe) for name, safe in self._outputs.items()})

    def _restore(self, state: dict[str, Any]) -> None:
        """Takes over instructions, descriptions and demonstrations, and nothing else.

        A saved LM or configuration could send the session's key to an address that the state names.
        """
        predictors = self._module.predictors()
        try:
            if isinstance(self._module, dspy.Predict):
                saved = [msgspec.convert(state, _SavedPredict)]
            else:
                saved = [msgspec.convert(state, _SavedChainOfThought).predict]
        except msgspec.ValidationError as error:
            raise EntrypointError(f"not what DSPy saves of such a program: {error}", at="state") from None
        names = self._inputs | self._outputs
        for predictor, one in zip(predictors, saved, strict=True):
            if len(one.signature.fields) != len(predictor.signature.fields):
                raise EntrypointError("the saved signature has other fields than the program's", at="state")
            demos = [{names.get(name, name): value for name, value in demo.items()} for demo in one.demos]
            try:
                predictor.load_state(
                    {"signature": msgspec.to_builtins(one.signature), "demos": demos, "lm": None, "fields": {}}
                )
            except (KeyError, ValueError, TypeError) as error:
                raise EntrypointError(f"not what DSPy saves of such a program: {error!r}", at="state") from None


def _safe_names(fields: Iterable[Field], taken: set[str]) -> dict[str, str]:
    """For each field a name that DSPy and pydantic take, as near to its own as possible; adds them to `taken`."""
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


def _annotation(field: Field) -> Any:
    kind = _TYPES[field.type]
    return kind if field.required else kind | None


class _SchemaLM(dspy.LM):  # type: ignore[misc]
    """An LM whose endpoint decodes under a JSON schema, whatever DSPy's catalogue knows of its model."""

    @property
    def supports_response_schema(self) -> bool:
        return True

    @property
    def supported_params(self) -> set[str]:
        return {*super().supported_params, "response_format"}


_lms: OrderedDict[LMSettings, dspy.LM] = OrderedDict()
"""The LMs with their connections, the one used last at the end."""


def _lm_of(settings: LMSettings) -> dspy.LM:
    lm = _lms.pop(settings, None)
    if lm is None:
        # No retries: a worker that waits for an LM's better days is missing elsewhere, and the caller knows better.
        lm = (_SchemaLM if settings.decodes_schema else dspy.LM)(
            settings.model,
            api_base=settings.api_base,
            api_key=settings.api_key,
            temperature=settings.temperature,
            max_tokens=settings.max_tokens,
            cache=False,
            num_retries=0,
        )
    _lms[settings] = lm
    if len(_lms) > MAX_LMS:
        _lms.popitem(last=False)[1].close()
    return lm


def _predict(module: dspy.Module, settings: LMSettings, arguments: dict[str, Any]) -> dspy.Prediction:
    adapter = dspy.JSONAdapter() if settings.decodes_schema else dspy.ChatAdapter()
    heard = lm_spans.callbacks()
    with dspy.context(lm=_lm_of(settings), adapter=adapter, disable_history=True, trace=None, callbacks=heard):
        return module(**arguments)


@contextmanager
def _no_longer_than(seconds: float) -> Iterator[None]:
    """Raises _OutOfTime in the block after `seconds`, and again until it is heard.

    A timeout of the connection would not do: an endpoint that sends a byte now and then never runs into it.
    """

    def ring(*_: object) -> None:
        raise _OutOfTime

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, _ALARM_INTERVAL_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def _failures_of(settings: LMSettings) -> Iterator[None]:
    """Whatever goes wrong in the block is the LM's: a program of these types has no code of its own."""
    try:
        yield
    except _OutOfTime:
        lm = _lms.pop(settings, None)  # its connection is amid an answer
        if lm is not None:
            lm.close()
        raise LMError("the LM did not answer in time") from None
    except dspy.AdapterParseError as error:
        raise LMError(_detail("the LM's answer does not fit the signature", error.lm_response, settings)) from None
    except InvalidOutputs as error:
        raise LMError(_detail("the LM's answer does not fit the signature", error.detail, settings)) from None
    except dspy.LMError as error:
        raise LMError(
            _detail(type(error).__name__.removeprefix("LM"), error.message, settings), retry_after_s=error.retry_after
        ) from None
    except Exception as error:
        raise LMError(_detail(type(error).__name__, str(error), settings)) from error


def _detail(what: str, said: object, settings: LMSettings) -> str:
    """What a caller is told. Some endpoints repeat the key that they refuse; it goes no further."""
    text = f"{what}: {said}"
    if settings.api_key:
        text = text.replace(settings.api_key, "…")
    return text if len(text) <= MAX_DETAIL_LENGTH else f"{text[:MAX_DETAIL_LENGTH]}…"


def _total(entries_of_models: Iterable[list[dict[str, Any]]]) -> LMUsage:
    """The tokens of all calls of the LM; what an endpoint does not tell counts as none."""
    entries = [entry for entries in entries_of_models for entry in entries]
    return LMUsage(
        sum(entry.get("prompt_tokens") or 0 for entry in entries),
        sum(entry.get("completion_tokens") or 0 for entry in entries),
    )
