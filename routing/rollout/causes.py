"""The changes of the pools that are being made, in the words of those who make them, for the history."""

from collections.abc import Callable
from typing import Final


class Cause:
    """A change of the pools: new code, another definition of V2's, another LM."""

    def __init__(self, tell: Callable[[], str]) -> None:
        """`tell` says who does what; it is asked when the change shows, or has been made."""
        self.tell: Final = tell
        self.is_told = False
        """True once the history has its words."""
        self.is_made = False
        self.is_withdrawn = False

    def __repr__(self) -> str:
        return f"<Cause {self.tell()!r} told={self.is_told} made={self.is_made}>"

    def withdraw(self) -> None:
        """Says that the change has left everything as it was."""
        self.is_withdrawn = True


class Causes:
    """The changes that are under way, or whose end the pools' identity does not show yet."""

    def __init__(self) -> None:
        self._all: list[Cause] = []

    def __bool__(self) -> bool:
        return bool(self._all)

    def __repr__(self) -> str:
        return f"<Causes {self._all!r}>"

    def add(self, cause: Cause) -> None:
        """Takes note of a change that begins."""
        self._all.append(cause)

    def drop(self, cause: Cause) -> None:
        """Forgets a change that has come to nothing."""
        if cause in self._all:
            self._all.remove(cause)

    def words(self) -> str | None:
        """Says what the history does not have yet, as said from now on; None if it has everything."""
        untold = [one for one in self._all if not one.is_told]
        for one in untold:
            one.is_told = True
        return "; ".join(one.tell() for one in untold) or None

    def settle(self) -> None:
        """Forgets the changes that are made: the identity of the pools that is known shows them."""
        self._all = [one for one in self._all if not one.is_made]
