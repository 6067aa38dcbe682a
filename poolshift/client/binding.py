"""The methods of both clients, made from the functions that describe their calls.

A function that returns a `Call` or a `Listing` describes a call once. `Method` makes a method of each client from it,
with the same arguments, and with the answer in place of the description.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar, get_args

P = ParamSpec("P")
Described = TypeVar("Described")


class Method(Generic[P, Described]):
    """The part of a method that does not depend on the client."""

    answers = ""
    """The answer's type in the signature, around the type in the description."""

    def __init__(self, describe: Callable[P, Described]) -> None:
        self.describe = describe
        self.__doc__ = describe.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name
        self._qualname = f"{owner.__qualname__}.{name}"

    def dressed(self, run: Callable[P, Any]) -> Callable[P, Any]:
        """Gives a function the name, the documentation and the signature that `help` shows."""
        functools.update_wrapper(run, self.describe)
        signature = inspect.signature(self.describe)
        (kind,) = get_args(signature.return_annotation)
        shown = self.answers.format(inspect.formatannotation(kind)) if self.answers else kind
        vars(run)["__signature__"] = signature.replace(return_annotation=shown)
        run.__name__, run.__qualname__ = self._name, self._qualname
        return run
