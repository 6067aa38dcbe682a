"""A value that does not fit its type, and its place in the value that was checked."""

from collections.abc import Iterable, Sequence
from typing import Any

MAX_TOLD = 10
"""The misfits of one value that are told."""


class Misfit(Exception):
    """A value that does not fit; `path` leads to it from the field, by keys and positions.

    `others` are further misfits in the same value.
    """

    def __init__(self, reason: str, path: Iterable[str | int] = (), others: Sequence["Misfit"] = ()) -> None:
        super().__init__(reason)
        self.reason = reason
        self.path = tuple(path)
        self.others = others

    def under(self, name: str | int) -> "Misfit":
        """Returns the same in a value that has this one under `name`."""
        return Misfit(self.reason, (name, *self.path), [one.under(name) for one in self.others])

    def told(self) -> str:
        """Says all misfits with their places, as msgspec says one."""
        told = [f"{one.reason} - at `{place(one.path)}`" for one in (self, *self.others)[:MAX_TOLD]]
        more = 1 + len(self.others) - len(told)
        return "; ".join([*told, f"and {more} more"] if more else told)


def misfit_of_pydantic(error: Any) -> Misfit:
    """Converts a `ValidationError` of pydantic, with all that it has found."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    first, *others = [Misfit(one["msg"], one["loc"]) for one in found]
    return Misfit(first.reason, first.path, others)


def place(path: Iterable[str | int]) -> str:
    """Writes a path as msgspec does: `$.order.items[0]`."""
    return "$" + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
