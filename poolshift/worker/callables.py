"""Objects that an entrypoint may name: functions of Python's, also behind a decorator that keeps them."""

import functools
import inspect
from collections.abc import Iterable
from types import MethodType
from typing import Any

EXPECTED = "an entrypoint is `module:function`, or `module:Class` with a method `__call__`"


def fault_of(found: Any) -> str | None:
    """Says what an object that is not a class is, if it is not fit to be an entrypoint, and what is expected."""
    if inspect.isfunction(found):
        return None
    wrapped = _wrapped(found)
    if wrapped is None:
        return f"{_kind(found)}; {EXPECTED}"
    if inspect.iscoroutinefunction(wrapped) or inspect.isgeneratorfunction(wrapped):
        if isinstance(found, functools._lru_cache_wrapper):
            return "a cached async function or generator, which gives its first result, used up, to later calls"
        return f"{_kind(found)} around an async function or a generator; {EXPECTED}"
    return None


def fault_of_class(found: type, methods: Iterable[str]) -> str | None:
    """Says why a worker cannot make and use an object of a class; `methods` are those that it calls without arguments.

    Nothing is called for it.
    """
    if "__call__" not in dir(found) or not inspect.isfunction(inspect.getattr_static(found, "__call__", None)):
        return "has no method __call__"
    if inspect.isabstract(found) or getattr(found, "_is_protocol", False):
        return "is abstract"
    if (fault := _fault_without_arguments(found)) is not None:
        return f"is made without arguments: {fault}"
    for name in methods:
        method = inspect.getattr_static(found, name, None)
        if inspect.isfunction(method) and (fault := _fault_without_arguments(MethodType(method, found))) is not None:
            return f"has a method {name} that is called without arguments: {fault}"
    return None


def _fault_without_arguments(function: Any) -> str | None:
    try:
        inspect.signature(function).bind()
    except TypeError as error:
        return str(error)
    except ValueError:  # such as a class of C's, which has no signature
        return None
    return None


def module_of(function: Any) -> str:
    """The module that defines a function; of one behind a decorator, that of the innermost."""
    inner = _wrapped(function)
    return str((function if inner is None else inner).__module__)


def _wrapped(found: Any) -> Any:
    """The function that an object of a decorator's calls, as `functools.lru_cache` and `functools.wraps` keep it."""
    if not callable(found) or not hasattr(found, "__wrapped__"):
        return None
    try:
        inner = inspect.unwrap(found)
    except ValueError:  # in a circle
        return None
    return inner if inspect.isfunction(inner) else None


def _kind(found: Any) -> str:
    if inspect.ismethod(found):
        return "a method"
    if inspect.isbuiltin(found):
        return "a builtin function, not written in Python"
    if inspect.ismodule(found):
        return "a module"
    kind = f"{type(found).__module__}.{type(found).__qualname__}".removeprefix("builtins.")
    return f"a `{kind}`"
