"""A rotation as it is written: all that V1 gets from V2, at once."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from routing.catalog.lms import NewLM, StoredLM
from routing.catalog.programs import StoredProgram
from routing.rollout.model import Change, Rollout


class Rotated(NamedTuple):
    """The outcome of a rotation."""

    rollout: Rollout
    programs: Sequence[StoredProgram]
    """The programs whose definition was V2's own, and is everyone's now."""
    lm: StoredLM | None
    """The LM that V1 has got."""


class RotationStore(Protocol):
    """Writes a rotation whole, or not at all: no crash leaves half of it behind."""

    async def newest(self) -> Rollout | None:
        """Reads the newest rotation; None if there is none. Raises StoreUnavailable."""
        ...

    async def rotate(self, change: Change, *, after: int, lm: NewLM | None) -> Rotated:
        """Makes `change` the revision after `after`, V2's own definitions everyone's, and `lm` V1's.

        Raises:
            StaleRevision: `after` is not the newest revision.
            StoreUnavailable: the store does not answer.
        """
        ...
