"""Turns a program into something that runs, in the worker.

Code from a client never runs: an entrypoint only names a function of the modules that the operator allows.
"""

import importlib
import inspect
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import aclosing
from types import MethodType
from typing import Any, Final, Protocol

from poolshift.worker import coroutines
from poolshift.worker.callables import fault_of, fault_of_class, module_of
from poolshift.worker.definitions import Definition, Signature
from poolshift.worker.exception_text import describe
from poolshift.worker.lm import LMRun
from poolshift.worker.messages import EventKind
from poolshift.worker.types.annotations import derive
from poolshift.worker.types.validators import validators_of


class Emit(Protocol):
    """Sends one event of a running program."""

    def __call__(self, data: Any, kind: EventKind = "progress") -> None:
        """`data` is any JSON value."""
        ...


class TaskEmit(Emit, Protocol):
    """Sends the events of a program that runs beside others."""

    async def has_room(self) -> None:
        """Waits until the listener takes more events."""


RunBesideOthers = Callable[[bytes | memoryview, TaskEmit, LMRun | None], Awaitable[bytes]]

SETUP: Final = "setup"
TEARDOWN: Final = "teardown"
"""The methods that a class may have: called before its first call in a worker, and at the worker's orderly end."""

DSPY_REQUIREMENT = "dspy>=3.4,<4"
"""The requirement that packaging/poolshift/pyproject.toml has for DSPy's types of programs."""
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

    def run(self, inputs: bytes | memoryview, emit: Emit, lm: LMRun | None) -> bytes:
        """The program's outputs as JSON, checked. `lm` is what a DSPy program runs on; it tells the tokens there.

        Raises:
            InvalidInputs, InvalidOutputs, MalformedInputs: as the validators of `poolshift.worker.types` say.
            LMError, LMNotConfigured: from a DSPy program.
            Exception: whatever the program raises.
        """
        ...

    beside_others: "RunBesideOthers | None"
    """Runs the program as `run` does, in a task of an event loop that calls share; None if it has to be alone."""

    def close(self) -> None:
        """Tears the program down: its worker runs it no more. Never raises."""
        ...


class LoadedDSPyProgram(LoadedProgram, Protocol):
    """A program of one of DSPy's types that is ready to run."""

    signature: Signature
    """The definition's signature, or the one that was derived if the definition has none."""


def load(definition: Definition, allowed_modules: tuple[str, ...]) -> LoadedProgram:
    """Loads a program: imports its module and, if its entrypoint is a class, makes an instance and sets it up.

    Raises:
        EntrypointError, SignatureError: it cannot be loaded, and why.
    """
    if definition.program_type == "metric":
        # Here, since that module imports this one.
        from poolshift.worker.metrics import MetricProgram  # noqa: PLC0415

        return MetricProgram(definition, allowed_modules)
    if definition.program_type == "python":
        return PythonProgram(definition, allowed_modules)
    return _load_with_dspy(definition, allowed_modules)


def _load_with_dspy(definition: Definition, allowed_modules: tuple[str, ...]) -> LoadedDSPyProgram:
    try:
        # Here, since whoever never loads such a program is not to wait for DSPy.
        dspy_programs = importlib.import_module(DSPY_PROGRAMS)
    except ModuleNotFoundError as error:
        if error.name != "dspy":
            raise
        raise EntrypointError(
            f"{definition.program_type!r} needs DSPy, which the workers' Python has not: "
            f"python -m pip install '{DSPY_REQUIREMENT}'",
            at="program_type",
        ) from None
    loaded: LoadedDSPyProgram = dspy_programs.load(definition, allowed_modules)
    return loaded


class PythonProgram:
    """A program of the type `python`, with its function found, or its instance set up, and its validators compiled."""

    def __init__(self, definition: Definition, allowed_modules: tuple[str, ...]) -> None:
        """Raises EntrypointError, SignatureError."""
        self._entrypoint = definition.entrypoint or ""
        found = find_program(self._entrypoint, allowed_modules)
        self._instance: Any = _set_up(found) if inspect.isclass(found) else None
        self.function: Callable[..., Any] = found if self._instance is None else self._instance.__call__
        self._inputs, self._outputs = validators_of(definition.signature, self.function)
        self._is_async = inspect.iscoroutinefunction(self.function)
        self._is_async_generator = inspect.isasyncgenfunction(self.function)
        is_concurrent = self._is_async or self._is_async_generator
        self.beside_others: RunBesideOthers | None = self._run_beside_others if is_concurrent else None

    def run(self, inputs: bytes | memoryview, emit: Emit, lm: LMRun | None) -> bytes:
        arguments = self._inputs.inputs(inputs)
        returned: Any = self.function(**arguments)
        if self._is_async:
            returned = coroutines.run(returned)
        elif self._is_async_generator:
            returned = coroutines.run(_exhaust_async(returned, emit))
        elif type(returned) is not dict and isinstance(returned, Generator):  # an abstract class looks for long
            returned = _exhaust(returned, emit)
        return self._outputs.outputs(returned)

    async def _run_beside_others(self, inputs: bytes | memoryview, emit: TaskEmit, lm: LMRun | None) -> bytes:
        returned: Any = self.function(**self._inputs.inputs(inputs))
        steps = _exhaust_async(returned, emit, emit.has_room) if self._is_async_generator else returned
        return self._outputs.outputs(await steps)

    def close(self) -> None:
        if self._instance is None or not hasattr(self._instance, TEARDOWN):
            return
        try:
            coroutines.result_of(getattr(self._instance, TEARDOWN)())
        except BaseException as error:  # whatever it raises, the worker ends well
            print(f"{TEARDOWN}() of {self._entrypoint} failed: {describe(error).detail}", file=sys.stderr)


def _set_up(program_class: type) -> Any:
    step = "the constructor"
    try:
        instance = program_class()
        step = f"{SETUP}()"
        if hasattr(instance, SETUP):
            coroutines.result_of(getattr(instance, SETUP)())
    except BaseException as error:  # SystemExit, too: the worker serves other programs
        raise EntrypointError(f"{step} of {program_class.__name__} failed: {describe(error).detail}") from error
    return instance


def _exhaust(steps: Generator[Any, None, Any], emit: Emit) -> Any:
    """Hands on what a generator yields and returns what it returns."""
    while True:
        try:
            emit(next(steps))
        except StopIteration as stop:  # noqa: PERF203  # `emit` is not to end the loop by one of its own
            return stop.value


async def _exhaust_async(
    steps: AsyncGenerator[Any], emit: Emit, has_room: Callable[[], Awaitable[None]] | None = None
) -> Any:
    """Hands on what an async generator yields, and returns the last: such a generator can return nothing itself."""
    last: Any = None
    async with aclosing(steps):
        async for last in steps:
            emit(last)
            if has_room is not None:
                await has_room()
    return last


def _check_metric(metric: str | None, allowed_modules: tuple[str, ...]) -> None:
    """Raises EntrypointError if there is a metric and it is not a function that takes inputs and outputs."""
    if metric is None:
        return
    try:
        function = find_entrypoint(metric, allowed_modules)
        inspect.signature(function).bind(None, None)
    except EntrypointError as error:
        raise EntrypointError(str(error), at="metric") from error.__cause__
    except TypeError as error:
        raise EntrypointError(f"{metric} does not take inputs and outputs: {error}", at="metric") from None


def is_allowed(module: str, allowed_modules: tuple[str, ...]) -> bool:
    """Says if `module` is one of the allowed ones or inside an allowed package."""
    return any(module == allowed or module.startswith(f"{allowed}.") for allowed in allowed_modules)


def find_entrypoint(entrypoint: str, allowed_modules: tuple[str, ...]) -> Callable[..., Any]:
    """The function that `module:function` names.

    It must be defined in an allowed module: one that is only imported there (`from subprocess import run`) is refused.

    Raises:
        EntrypointError: says which of these it is.
    """
    found = find_defined(entrypoint, allowed_modules)
    if inspect.isclass(found):
        raise EntrypointError(f"{entrypoint!r} is a class, not a function")
    return found


def find_program(entrypoint: str, allowed_modules: tuple[str, ...]) -> Callable[..., Any]:
    """The function, or the class with `__call__`, that `module:name` names; as `find_entrypoint`.

    Raises:
        EntrypointError: says what it is instead.
    """
    found = find_defined(entrypoint, allowed_modules)
    if inspect.isclass(found):
        if (fault := fault_of_class(found, (SETUP, TEARDOWN))) is not None:
            raise EntrypointError(f"the class {entrypoint.partition(':')[2]!r} {fault}")
        return found
    return find_entrypoint(entrypoint, allowed_modules)


def find_defined(entrypoint: str, allowed_modules: tuple[str, ...]) -> Callable[..., Any]:
    """The function or class of that name.

    Raises:
        EntrypointError: the module is not allowed or fails on import, or the name is private, or is that of something
            else, or of something that is defined elsewhere.
    """
    module_name, _, function_name = entrypoint.partition(":")
    if not is_allowed(module_name, allowed_modules):
        raise EntrypointError(
            f"module {module_name!r} is not allowed; PROGRAM_MODULES allows {', '.join(allowed_modules)}"
        )
    if function_name.startswith("_"):
        raise EntrypointError(f"{function_name!r} is private")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise EntrypointError(f"cannot import {module_name!r}: {error}") from None
    except Exception as error:
        raise EntrypointError(f"{module_name!r} fails on import: {describe(error).detail}") from error
    if not hasattr(module, function_name):
        raise EntrypointError(f"{module_name!r} has no function or class {function_name!r}")
    found: Callable[..., Any] = getattr(module, function_name)
    if not inspect.isclass(found) and (fault := fault_of(found)) is not None:
        raise EntrypointError(f"{entrypoint!r} is {fault}")
    if not is_allowed(defined_in := module_of(found), allowed_modules):
        raise EntrypointError(f"{function_name!r} is defined in {defined_in!r}, which is not allowed")
    return found


def check(definition: Definition, allowed_modules: tuple[str, ...]) -> Signature | None:
    """Sees that the program can be loaded and that its function takes the signature's inputs, without running it.

    Returns the derived signature, if the definition leaves its signature to the program.

    Raises:
        EntrypointError, SignatureError: say what is wrong.
    """
    _check_metric(definition.metric, allowed_modules)
    if definition.program_type != "python":
        loaded = _load_with_dspy(definition, allowed_modules)
        return None if definition.signature.outputs else loaded.signature
    found = find_program(definition.entrypoint or "", allowed_modules)
    # A method's `self` is bound to anything: nothing is called.
    function = MethodType(found.__call__, object()) if inspect.isclass(found) else found
    if definition.signature.derived:
        return _derived(definition.entrypoint or "", found, function)
    _check_inputs(definition, function)
    validators_of(definition.signature, function)
    return None


def try_out(definition: Definition, allowed_modules: tuple[str, ...]) -> None:
    """Loads a program as its first call would, and sees that its function takes the inputs that calls send.

    Raises:
        EntrypointError, SignatureError: say what is wrong.
    """
    check(definition, allowed_modules)
    if definition.program_type == "python":  # of DSPy's types, the check has loaded all
        loaded = PythonProgram(definition, allowed_modules)
        _check_inputs(definition, loaded.function)


def _check_inputs(definition: Definition, function: Callable[..., Any]) -> None:
    """Raises EntrypointError if a function does not take the signature's inputs."""
    accepted = inspect.signature(function)
    inputs = definition.signature.inputs
    try:
        accepted.bind(**{field.name: None for field in inputs})
        accepted.bind(**{field.name: None for field in inputs if field.required or field.default is not None})
    except TypeError as error:
        raise EntrypointError(f"{definition.entrypoint} does not take the signature's inputs: {error}") from None


def _derived(entrypoint: str, found: Any, function: Callable[..., Any]) -> Signature:
    if _is_dspy_module(found):
        raise EntrypointError(f"{entrypoint!r} is a dspy.Module: use the type 'dspy'", at="program_type")
    derived = derive(function, entrypoint)
    validators_of(derived, function)
    return derived


def _is_dspy_module(found: Any) -> bool:
    bases = getattr(found, "__mro__", ())
    return any(base.__name__ == "Module" and base.__module__.partition(".")[0] == "dspy" for base in bases)
