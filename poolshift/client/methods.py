"""Names, docstrings and signatures for the methods that both clients make from descriptions of calls."""

import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, get_args

P = ParamSpec("P")
T = TypeVar("T")
_SELF = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)


def documented(method: Callable[P, T], describe: Callable[..., Any]) -> Callable[P, T]:
    """Gives a method the docstring and the parameters of a description, for editors and `help`."""
    described = inspect.signature(describe)
    (answer,) = get_args(described.return_annotation)  # `T` of `Call[T]` or `Listing[T]`
    returns = _filled(inspect.signature(method).return_annotation, answer)
    parameters = [_SELF, *described.parameters.values()]
    vars(method)["__signature__"] = inspect.Signature(parameters, return_annotation=returns)
    method.__doc__ = describe.__doc__
    return method


def name_methods(group: type) -> None:
    """Gives the methods that `documented` returned the names that they have in their class."""
    for name, method in vars(group).items():
        if hasattr(method, "__signature__"):
            method.__name__, method.__qualname__ = name, f"{group.__qualname__}.{name}"


def _filled(returned: Any, answer: Any) -> Any:
    """Puts the type of an answer in the place of the type variable: of `T`, or of that in `Items[T]`."""
    if isinstance(returned, TypeVar):
        return answer
    return returned[answer] if getattr(returned, "__parameters__", ()) else returned
