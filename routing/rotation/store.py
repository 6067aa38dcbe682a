"""A rotation and its undo as they are written: all that V1 gets from V2, or gets back, at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

from poolshift.worker.definitions import Definition
from routing.catalog.lms import NewLM, StoredLM
from routing.catalog.programs import StoredProgram
from routing.rollout.model import Change, Rollout
from routing.rotation.trial import End


@dataclass(frozen=True, slots=True)
class Former:
    """V1 as it was before a rotation, beside its definitions and its LM, which the store reads by itself."""

    spec: Mapping[str, Any]
    """The specification, as JSON values."""
    code: str | None
    """The revision of the programs' code that its workers had; None if they had not started."""
    tried: str | None
    """The identity of the V2 whose specification V1 got (`routing.rotation.trial`); None if it is not known."""


FORGOTTEN: Final = "rotation_forgotten"
"""The source under which the rollout's log has the rotation that `ROTATION=forget` has ended."""


class LastRotation(NamedTuple):
    """The newest rotation; `former` is None if nothing is kept to go back to."""

    rollout: Rollout
    former: Former | None
    is_forgotten: bool = False
    """Tells if `ROTATION=forget` has ended it: V1 is what the environment says."""


class Rotated(NamedTuple):
    """The outcome of a rotation."""

    rollout: Rollout
    programs: Sequence[StoredProgram]
    """The programs whose definition was V2's own, and is everyone's now."""
    lm: StoredLM | None
    """The LM that V1 has got."""


class TakenBack(NamedTuple):
    """The outcome of an undone rotation."""

    rollout: Rollout
    programs: Sequence[StoredProgram]
    """The programs that have V1's former definition again."""
    kept: Sequence[str]
    """The ids of programs that were changed after the rotation, and keep their newer definition."""
    has_lm: bool
    """Tells if V1's LM has changed; then `lm` is the stored one, or None if V1 has none of its own again."""
    lm: StoredLM | None
    keeps_lm: bool
    """Tells if V1's LM was changed after the rotation, and stays."""


class RotationStore(Protocol):
    """Writes a rotation or its undo whole, or not at all: no crash leaves half of it behind."""

    async def newest(self) -> Rollout | None:
        """Reads the newest rotation; None if there is none. Raises StoreUnavailable."""
        ...

    async def last(self) -> LastRotation | None:
        """Reads the newest rotation with the V1 that it replaced; None if there is none. Raises StoreUnavailable."""
        ...

    async def former_definitions(self, rotation: int) -> Mapping[str, Definition]:
        """Reads, by key, the definitions that V1 gets back if `rotation` is taken back. Raises StoreUnavailable."""
        ...

    async def rotate(self, change: Change, *, after: int, lm: NewLM | None, former: Former) -> Rotated:
        """Makes `change` the revision after `after`, V2's own definitions everyone's, and `lm` V1's.

        Keeps what V1 had, in place of what an older rotation has kept.

        Raises:
            StaleRevision: `after` is not the newest revision.
            StoreUnavailable: the store does not answer.
        """
        ...

    async def take_back(self, change: Change, *, after: int, rotation: int, end: End) -> TakenBack:
        """Makes `change` the revision after `after`, and gives V1 the definitions and the LM of before `rotation`.

        The definitions that the rotation made everyone's are V2's own again. `end` is the end of that V2's trial.

        Raises:
            StaleRevision: `after` is not the newest revision.
            StoreUnavailable: the store does not answer.
        """
        ...
