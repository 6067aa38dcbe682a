"""Programs of type `dspy`: a module as its author wrote it, on the LM that comes with the call."""

import inspect
import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import dspy

from poolshift.worker.definitions import Definition, Signature
from poolshift.worker.dspy.annotations import Arguments, Results, jsonable
from poolshift.worker.dspy.client import ask, ask_beside_others, lm_failures_of, without_key_of
from poolshift.worker.dspy.signatures import Parameter, derive_signature, output_infos, parameters_of
from poolshift.worker.dspy.states import restore
from poolshift.worker.dspy.streaming import FirstAnswer, OutputEvents, run_module_streamed
from poolshift.worker.dspy.usage import counted_for
from poolshift.worker.errors import InvalidOutputs, LMNotConfigured
from poolshift.worker.exception_text import describe
from poolshift.worker.lm import LMRun
from poolshift.worker.loading import Emit, EntrypointError, RunBesideOthers, TaskEmit, find_defined
from poolshift.worker.types.fields import checked_by_schemas
from poolshift.worker.types.inputs import InputValidator
from poolshift.worker.types.outputs import OutputValidator

_OF_DSPY = frozenset({"reasoning", "trajectory"})
"""Outputs that DSPy's own modules add."""
_log = logging.getLogger("poolshift")


class ModuleProgram:
    """A program with its module made: once per worker, for all of its calls."""

    def __init__(self, definition: Definition, allowed_modules: tuple[str, ...]) -> None:
        """Raises EntrypointError if the class, the state or the signature is not a valid one."""
        self._module = _make(definition.entrypoint or "", allowed_modules)
        if definition.state is not None:
            restore(self._module, definition.state)
        forward = _forward_of(self._module)
        self._is_async = inspect.iscoroutinefunction(forward)
        is_concurrent = self._is_async or callable(getattr(type(self._module), "aforward", None))
        self.beside_others: RunBesideOthers | None = self._run_beside_others if is_concurrent else None
        parameters = parameters_of(self._module, forward)
        self.signature = definition.signature
        if self.signature.outputs:
            _check_takes(self.signature, forward)
        else:
            self.signature = derive_signature(self._module, forward, parameters)
        checked = checked_by_schemas(self.signature)
        self._checked_inputs = InputValidator(checked.inputs)
        self._checked_outputs = OutputValidator(checked.outputs)
        self._arguments = Arguments(self._annotations(parameters or {}))
        self._results = Results(_annotations_of_outputs(self._module, self.signature))
        self._streamed = self._streamed_fields()
        self._has_told = False

    def run(self, inputs: bytes | memoryview, emit: Emit, lm: LMRun | None) -> bytes:
        """Runs the module and returns the checked outputs as JSON.

        Raises:
            InvalidInputs, MalformedInputs, InvalidOutputs: as the validators raise them.
            LMError: the LM failed, refused, was too slow, or gave an answer that does not fit a predictor's signature.
            LMNotConfigured: neither the session nor the service has an LM.
            Exception: whatever the module's own code raises.
        """
        if lm is None:
            raise LMNotConfigured("neither the session nor the service has an LM", started=False)
        arguments = self._arguments.convert(self._checked_inputs.inputs(inputs))
        listeners = self._listeners(emit, lm) if lm.streams else []
        with without_key_of(lm.settings):
            with lm_failures_of(lm.settings), counted_for(lm):
                returned = ask(lm, self._runner(arguments, listeners, is_async=self._is_async))
            return self._checked(returned, listeners)

    async def _run_beside_others(self, inputs: bytes | memoryview, emit: TaskEmit, lm: LMRun | None) -> bytes:
        if lm is None:
            raise LMNotConfigured("neither the session nor the service has an LM", started=False)
        arguments = self._arguments.convert(self._checked_inputs.inputs(inputs))
        listeners = self._listeners(emit, lm) if lm.streams else []
        with without_key_of(lm.settings):
            with lm_failures_of(lm.settings), counted_for(lm):
                returned = await ask_beside_others(lm, self._runner(arguments, listeners, is_async=True))
            return self._checked(returned, listeners)

    def _checked(self, returned: Any, listeners: list[FirstAnswer]) -> bytes:
        outputs = self._outputs_of(returned)
        checked = self._checked_outputs.outputs(outputs)
        for listener in listeners:
            listener.events.finish_if_same(outputs)
        return checked

    def close(self) -> None:
        """Does nothing: a DSPy module holds nothing that outlives it."""

    def _runner(self, arguments: dict[str, Any], listeners: list[FirstAnswer], *, is_async: bool) -> Callable[[], Any]:
        if listeners:
            return partial(run_module_streamed, self._module, arguments, listeners, is_async=is_async)
        return partial(self._module.acall if is_async else self._module, **arguments)

    def _outputs_of(self, returned: Any) -> Any:
        if isinstance(returned, dspy.Example):  # as any prediction is
            outputs = self.signature.outputs
            if (
                len(outputs) == 1 and outputs[0].required and outputs[0].name not in returned
            ):  # else it is the bare value
                name = outputs[0].name
                raise InvalidOutputs(f"outputs: Object missing required field `{name}`", field=name)
            self._tell_left_out(returned)
            return self._results.jsonable({one.name: returned[one.name] for one in outputs if one.name in returned})
        return self._results.jsonable(returned) if isinstance(returned, dict) else jsonable(returned)

    def _tell_left_out(self, returned: dspy.Example) -> None:
        """Logs, once in this worker, what the module returns and the signature that it has derived leaves out."""
        if self._has_told or not self.signature.derived:
            return
        known = {one.name for one in self.signature.outputs} | _OF_DSPY
        left_out = [name for name in returned.keys() if name not in known]  # noqa: SIM118 (DSPy's is not a mapping)
        if left_out:
            self._has_told = True
            told = ", ".join(map(str, left_out))
            _log.warning("forward returns more than the derived signature has: %s; give the program a signature", told)

    def _annotations(self, parameters: Mapping[str, Parameter]) -> dict[str, Any]:
        known = {name: info.annotation for one in self._module.predictors() for name, info in _inputs_of(one)}
        known |= {name: one.annotation for name, one in parameters.items()}
        return {one.name: known[one.name] for one in self.signature.inputs if one.name in known}

    def _streamed_fields(self) -> list[tuple[dspy.Predict, list[str]]]:
        """Finds the predictors that write outputs which are texts; an output that two could write is not streamed."""
        predictors = self._module.predictors()
        names: dict[int, list[str]] = {}
        for field in self.signature.outputs:
            writers = [at for at, one in enumerate(predictors) if field.name in one.signature.output_fields]
            if len(writers) == 1 and predictors[writers[0]].signature.output_fields[field.name].annotation is str:
                names.setdefault(writers[0], []).append(field.name)
        return [(predictors[at], fields) for at, fields in names.items()]

    def _listeners(self, emit: Emit, lm: LMRun) -> list[FirstAnswer]:
        return [
            FirstAnswer(
                predictor,
                OutputEvents({name: name for name in fields}, emit, as_json=lm.settings.decodes_schema),
            )
            for predictor, fields in self._streamed
        ]


def _make(entrypoint: str, allowed_modules: tuple[str, ...]) -> dspy.Module:
    class_name = entrypoint.partition(":")[2]
    found = find_defined(entrypoint, allowed_modules)
    if not isinstance(found, type) or not issubclass(found, dspy.Module):
        raise EntrypointError(
            f"{entrypoint!r} is not a subclass of dspy.Module; other classes and functions have the type 'python'"
        )
    try:
        return found()
    except BaseException as error:  # SystemExit, too: the worker serves other programs
        raise EntrypointError(f"{class_name}() raises {describe(error).detail}") from error


def _forward_of(module: dspy.Module) -> Callable[..., Any]:
    """Finds the method that a call runs: `aforward` only if there is no `forward`."""
    for name in ("forward", "aforward"):
        if callable(getattr(type(module), name, None)):
            # Not by `getattr`: DSPy takes that for a call of the method past the module's own, and logs a warning.
            found: Callable[..., Any] = object.__getattribute__(module, name)
            return found
    raise EntrypointError(f"{type(module).__name__} has neither a forward nor an aforward")


def _check_takes(signature: Signature, forward: Callable[..., Any]) -> None:
    always = {field.name for field in signature.inputs if field.required or field.default is not None}
    try:
        for names in ({field.name for field in signature.inputs}, always):
            inspect.signature(forward).bind(**dict.fromkeys(names))
    except TypeError as error:
        raise EntrypointError(f"{forward.__name__} does not take the signature's inputs: {error}") from None


def _annotations_of_outputs(module: dspy.Module, signature: Signature) -> dict[str, Any]:
    """Returns the annotations of the outputs whose derived schemas say more than a type."""
    if not signature.derived:
        return {}
    infos = output_infos(module)
    return {one.name: infos[one.name].annotation for one in signature.outputs if one.schema and one.name in infos}


def _inputs_of(predictor: dspy.Predict) -> Any:
    return predictor.signature.input_fields.items()
