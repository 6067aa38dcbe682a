"""Programs and errors by their names, as they go from one process to another."""

from typing import Final

from app.fronts.messages import Failure, ProgramName
from pools.calls import Program
from pools.errors import ExecutionError, PoolClosed, Withdrawn
from poolshift.worker.definitions import Definition, Signature

_UNKNOWN: Final = Definition("python", Signature((), ()))
"""Stands for the definition of a program of which nothing but the names is known."""


def name_of(program: Program | None) -> ProgramName | None:
    """Names a program for another process."""
    return None if program is None else (program.key, program.id, program.quarantine_key)


def named_program(name: ProgramName | None) -> Program | None:
    """Makes a program of which nothing but the names is known."""
    if name is None:
        return None
    key, program_id, quarantine_key = name
    program = Program(key, program_id, _UNKNOWN)
    program.quarantine_key = quarantine_key
    return program


def failure_named(failure: Failure) -> Exception:
    """Makes the error of a failure again."""
    if failure.error == Withdrawn.__name__:
        return Withdrawn()
    kind = _ERRORS.get(failure.error)
    if kind is None:
        return PoolClosed(started=True)
    error = kind.__new__(kind)
    Exception.__init__(error, failure.detail)
    error.usage = None
    for name, value in failure.fields.items():
        setattr(error, name, value)
    return error


def _all_kinds(kind: type[ExecutionError]) -> dict[str, type[ExecutionError]]:
    kinds = {kind.__name__: kind}
    for one in kind.__subclasses__():
        kinds.update(_all_kinds(one))
    return kinds


_ERRORS: Final = _all_kinds(ExecutionError)
