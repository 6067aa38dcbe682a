"""Runs a program in a test, without a server: loaded, checked and called as a worker does it.

    from poolshift.testing import InvalidInputs, load

    program = load("orders:total")
    assert program.run({"items": [{"price": 2.5, "quantity": 4}]}).outputs == {"net": 10.0, "gross": 11.9}

Needs msgspec alone; a DSPy program needs DSPy, too.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import msgspec

from poolshift.worker.definitions import Definition, Field, Limits, Signature
from poolshift.worker.errors import (
    ExecutionError,
    InvalidInputs,
    InvalidOutputs,
    LMError,
    LMNotConfigured,
    ProgramError,
    SignatureError,
)
from poolshift.worker.exception_text import describe
from poolshift.worker.lm import LMRun, LMSettings
from poolshift.worker.loading import EntrypointError, check
from poolshift.worker.loading import load as load_definition
from poolshift.worker.messages import MAX_EVENT_BYTES, EventKind
from poolshift.worker.types.schemas import type_of_schema

__all__ = [
    "EntrypointError",
    "ExecutionError",
    "InvalidInputs",
    "InvalidOutputs",
    "LMError",
    "LMNotConfigured",
    "Program",
    "ProgramError",
    "Run",
    "SignatureError",
    "load",
    "load_file",
]

_LM_TIMEOUT_S = 60.0
_OF_THE_SERVICE = frozenset({"id", "session_id", "metric", *Limits.__struct_fields__})
"""Members of a definition that the service follows, and no worker."""
_DERIVED = Signature((), (), derived=True)


@dataclass(frozen=True)
class Run:
    """One run of a program: its outputs, and the values that it yielded on the way, as a client gets them."""

    outputs: dict[str, Any]
    progress: list[Any]


class Program:
    """A program in this process. Use it in a `with` statement if it is a class with `teardown`."""

    def __init__(self, definition: Definition, allowed_modules: tuple[str, ...]) -> None:
        """Raises EntrypointError or SignatureError, with which a service refuses to create the program."""
        derived = check(definition, allowed_modules)
        self._definition = definition if derived is None else msgspec.structs.replace(definition, signature=derived)
        self._loaded = load_definition(self._definition, allowed_modules)

    @property
    def signature(self) -> dict[str, Any]:
        """The inputs and outputs, as the definition or the program's annotations tell them."""
        signature: dict[str, Any] = msgspec.to_builtins(self._definition.signature)
        return signature

    def run(self, inputs: Mapping[str, Any] | None = None, *, lm: Mapping[str, Any] | None = None) -> Run:
        """Runs the program once. `lm` is the language model of a DSPy program, as `PUT /lm` takes it.

        Raises:
            InvalidInputs, InvalidOutputs: they do not fit the signature; `field` names the first that does not.
            ProgramError: the program raised; the exception is its cause.
            LMError, LMNotConfigured: from a DSPy program.
        """
        progress: list[Any] = []

        def emit(data: Any, kind: EventKind = "progress") -> None:
            encoded = msgspec.json.encode(data)
            if len(encoded) > MAX_EVENT_BYTES:
                raise ValueError(f"an event of {len(encoded)} bytes is over the limit of {MAX_EVENT_BYTES}")
            if kind == "progress":
                progress.append(msgspec.json.decode(encoded))

        encoded = msgspec.json.encode(inputs or {})
        lm_run = None if lm is None else LMRun(msgspec.convert(lm, LMSettings), _LM_TIMEOUT_S, streams=False)
        try:
            outputs = self._loaded.run(encoded, emit, lm_run)
        except ExecutionError:
            raise
        except Exception as error:
            raise describe(error) from error
        return Run(msgspec.json.decode(outputs), progress)

    def close(self) -> None:
        """Tears the program down, as a worker does at its orderly end."""
        self._loaded.close()

    def __enter__(self) -> "Program":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def load(entrypoint: str | None = None, **definition: Any) -> Program:
    """Loads a program by its entrypoint, or by the members that `POST /programs` takes.

    The modules of the entrypoint and of the tools are allowed, as if `PROGRAM_MODULES` named them.

    Raises:
        EntrypointError, SignatureError: the program cannot be loaded, and why.
        TypeError: a member is not one of a definition.
    """
    members = {"entrypoint": entrypoint, **definition}
    if unknown := members.keys() - _OF_THE_SERVICE - set(Definition.__struct_fields__):
        raise TypeError(f"a program has no member {', '.join(sorted(unknown))}")
    kept = {name: value for name, value in members.items() if name not in _OF_THE_SERVICE and value is not None}
    kept = {"program_type": "python", **kept, "signature": _signature(members.get("signature"))}
    named = [one for one in (entrypoint, *kept.get("tools", ())) if one]
    return Program(msgspec.convert(kept, Definition), tuple({one.partition(":")[0].partition(".")[0] for one in named}))


def load_file(path: str) -> Program:
    """Loads the first program of a file for `poolshift programs apply`: JSON, or YAML if PyYAML is installed."""
    with open(path, "rb") as file:  # noqa: PTH123  a path of any kind
        content = file.read()
    decoded: Any = msgspec.json.decode(content) if str(path).endswith(".json") else msgspec.yaml.decode(content)
    return load(**(decoded[0] if isinstance(decoded, list) else decoded))


def _signature(given: Mapping[str, Any] | str | None) -> Signature:
    if given is None:
        return _DERIVED
    if isinstance(given, str):
        return Signature((), (), text=given)
    inputs = tuple(_field(one) for one in given.get("inputs", ()))
    outputs = tuple(_field(one) for one in given.get("outputs", ()))
    return Signature(inputs, outputs, given.get("name"), given.get("description"))


def _field(given: Mapping[str, Any]) -> Field:
    """Completes a field as the service does: its type may be that of its schema, and a default makes it optional."""
    field = {"type": type_of_schema(given.get("schema") or {}), "required": given.get("default") is None}
    return msgspec.convert({**field, **{name: value for name, value in given.items() if value is not None}}, Field)
