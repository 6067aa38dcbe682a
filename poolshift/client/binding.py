"""The methods of both clients, made from the functions that describe their calls.

A function that returns a `Call` or a `Listing` describes a call once. `Method` makes a method of each client from it,
with the same arguments, and with the answer in place of the description.
"""

import functools
import inspect
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, get_args, overload

from poolshift.client.calls import Call, Listing
from poolshift.client.executions import Execution

if TYPE_CHECKING:
    from poolshift.client.async_client import AsyncGroup
    from poolshift.client.async_transport import AsyncItems, AsyncStream
    from poolshift.client.sync_client import Group
    from poolshift.client.sync_transport import Items, Stream

P = ParamSpec("P")
T = TypeVar("T")
Described = TypeVar("Described")


class Method(Generic[P, Described]):
    """A method, which answers as the group does that it is called on."""

    kind = ""
    """The name of the group's way to answer."""

    def __init__(self, describe: Callable[P, Described]) -> None:
        self.describe = describe
        self.__doc__ = describe.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def _bound(self, group: "Group | AsyncGroup | None", owner: type | None) -> Callable[..., Any]:
        run: Callable[[Any], Any] = getattr(owner if group is None else group, self.kind)
        shown: str = (owner or type(group)).shown[self.kind]  # type: ignore[attr-defined]  # a group has it

        def method(*args: P.args, **kwargs: P.kwargs) -> Any:
            return run(self.describe(*args, **kwargs))

        functools.update_wrapper(method, self.describe)
        signature = inspect.signature(self.describe)
        (answer,) = get_args(signature.return_annotation)
        told = shown.format(inspect.formatannotation(answer)) if shown else answer
        vars(method)["__signature__"] = signature.replace(return_annotation=told)
        method.__name__ = self._name
        method.__qualname__ = f"{(owner or type(group)).__qualname__}.{self._name}"
        return method


class Sends(Method[P, Call[T]]):
    """Makes a call."""

    kind = "value"

    @overload
    def __get__(self, group: "Group", owner: Any = None) -> Callable[P, T]: ...
    @overload
    def __get__(self, group: "AsyncGroup", owner: Any = None) -> Callable[P, Coroutine[Any, Any, T]]: ...
    def __get__(self, group: "Group | AsyncGroup", owner: Any = None) -> Callable[P, Any]:
        return self._bound(group, owner)


class Lists(Method[P, Listing[T]]):
    """Lists what is there, a page at a time."""

    kind = "listed"

    @overload
    def __get__(self, group: "Group", owner: Any = None) -> "Callable[P, Items[T]]": ...
    @overload
    def __get__(self, group: "AsyncGroup", owner: Any = None) -> "Callable[P, AsyncItems[T]]": ...
    def __get__(self, group: "Group | AsyncGroup", owner: Any = None) -> Callable[P, Any]:
        return self._bound(group, owner)


class Streams(Method[P, Call[Execution]]):
    """Opens a stream of events."""

    kind = "streamed"

    @overload
    def __get__(self, group: "Group", owner: Any = None) -> "Callable[P, Stream]": ...
    @overload
    def __get__(self, group: "AsyncGroup", owner: Any = None) -> "Callable[P, AsyncStream]": ...
    def __get__(self, group: "Group | AsyncGroup", owner: Any = None) -> Callable[P, Any]:
        return self._bound(group, owner)
