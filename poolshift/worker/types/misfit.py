"""A value that does not fit its type, and its place in the value that was checked."""

from collections.abc import Iterable


class Misfit(Exception):
    """A value that does not fit; `path` leads to it from the field, by keys and positions."""

    def __init__(self, reason: str, path: Iterable[str | int] = ()) -> None:
        super().__init__(reason)
        self.reason = reason
        self.path = tuple(path)


def place(path: Iterable[str | int]) -> str:
    """Writes a path as msgspec does: `$.order.items[0]`."""
    return "$" + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
