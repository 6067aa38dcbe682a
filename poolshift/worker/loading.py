"""Turns a program into something that runs, in the worker.

Code from a client never runs: an entrypoint only names a function of the modules that the operator allows.
"""

import asyncio
import importlib
import inspect
from collections.abc import Callable, Generator
from typing import Any, Protocol

import msgspec

from poolshift.worker.definitions import Definition
from poolshift.worker.exception_text import describe
from poolshift.worker.lm import LMRun
from poolshift.worker.messages import EventKind
from poolshift.worker.validation import Validator


class Emit(Protocol):
    """Sends one event of a running program."""

    def __call__(self, data: Any, kind: EventKind = "progress") -> None:
        """`data` is any JSON value."""
        ...


DSPY_PROGRAMS = "poolshift.worker.dspy.programs"
"""The module for DSPy programs, imported when one is loaded or ahead of all workers, and never otherwise."""


class EntrypointError(Exception):
    """An entrypoint is not allowed, does not exist, or does not take the signature's inputs.

    `at` names the part of the program that is wrong, if that is not the entrypoint.
    """

    def __init__(self, message: str, *, at: str = "entrypoint") -> None:
        super().__init__(message)
        self.at = at


class LoadedProgram(Protocol):
    """A program that is ready to run."""

    def run(self, inputs: msgspec.Raw, emit: Emit, lm: LMRun | None) -> bytes:
        """The program's outputs as JSON, checked. `lm` is what a DSPy program runs on; it tells the tokens there.

        Raises:
            InvalidInputs, InvalidOutputs, MalformedInputs: as `Validator` says.
            LMError, LMNotConfigured: from a DSPy program.
            Exception: whatever the program raises.
        """
        ...


def load(definition: Definition, allowed_modules: tuple[str, ...]) -> LoadedProgram:
    """Raises EntrypointError."""
    if definition.program_type == "python":
        return PythonProgram(definition, allowed_modules)
    try:
        # Here, since whoever never loads such a program is not to wait for DSPy.
        dspy_programs = importlib.import_module(DSPY_PROGRAMS)
    except ModuleNotFoundError as error:
        if error.name != "dspy":
            raise
        raise EntrypointError(
            f"{definition.program_type!r} needs DSPy, which is not installed: pip install 'poolshift[lm]'",
            at="program_type",
        ) from None
    loaded: LoadedProgram = dspy_programs.DSPyProgram(definition, allowed_modules)
    return loaded


class PythonProgram:
    """A program of the type `python`, with its function found and its validators compiled."""

    def __init__(self, definition: Definition, allowed_modules: tuple[str, ...]) -> None:
        """Raises EntrypointError."""
        self._inputs = Validator(definition.signature.inputs)
        self._outputs = Validator(definition.signature.outputs)
        self._function = find_entrypoint(definition.entrypoint or "", allowed_modules)
        self._is_async = inspect.iscoroutinefunction(self._function)

    def run(self, inputs: msgspec.Raw, emit: Emit, lm: LMRun | None) -> bytes:
        arguments = self._inputs.inputs(inputs)
        returned: Any = self._function(**arguments)
        if self._is_async:
            returned = asyncio.run(returned)
        elif isinstance(returned, Generator):
            returned = _exhaust(returned, emit)
        return self._outputs.outputs(returned)


def _exhaust(steps: Generator[Any, None, Any], emit: Emit) -> Any:
    """Hands on what a generator yields and returns what it returns."""
    while True:
        try:
            emit(next(steps))
        except StopIteration as stop:  # noqa: PERF203  # `emit` is not to end the loop by one of its own
            return stop.value


def is_allowed(module: str, allowed_modules: tuple[str, ...]) -> bool:
    """Says if `module` is one of the allowed ones or inside an allowed package."""
    return any(module == allowed or module.startswith(f"{allowed}.") for allowed in allowed_modules)


def find_entrypoint(entrypoint: str, allowed_modules: tuple[str, ...]) -> Callable[..., Any]:
    """The function that `module:function` names.

    It must be defined in an allowed module: one that is only imported there (`from subprocess import run`) is refused.

    Raises:
        EntrypointError: says which of these it is.
    """
    module_name, _, function_name = entrypoint.partition(":")
    if not is_allowed(module_name, allowed_modules):
        raise EntrypointError(f"module {module_name!r} is not allowed; allowed are {', '.join(allowed_modules)}")
    if function_name.startswith("_"):
        raise EntrypointError(f"{function_name!r} is private")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise EntrypointError(f"cannot import {module_name!r}: {error}") from None
    except Exception as error:
        raise EntrypointError(f"{module_name!r} fails on import: {describe(error).detail}") from error
    function = getattr(module, function_name, None)
    if not inspect.isfunction(function):
        raise EntrypointError(f"{module_name!r} has no function {function_name!r}")
    if not is_allowed(function.__module__, allowed_modules):
        raise EntrypointError(f"{function_name!r} is defined in {function.__module__!r}, which is not allowed")
    return function


def check(definition: Definition, allowed_modules: tuple[str, ...]) -> None:
    """Sees that the program can be loaded and that its function takes the signature's inputs, without running it.

    Raises:
        EntrypointError: says what is wrong.
    """
    if definition.program_type != "python":
        load(definition, allowed_modules)
        return
    function = find_entrypoint(definition.entrypoint or "", allowed_modules)
    accepted = inspect.signature(function)
    inputs = definition.signature.inputs
    try:
        accepted.bind(**{field.name: None for field in inputs})
        accepted.bind(**{field.name: None for field in inputs if field.required or field.default is not None})
    except TypeError as error:
        raise EntrypointError(f"{definition.entrypoint} does not take the signature's inputs: {error}") from None
