"""V2's own definitions of programs: V1 keeps the definition that it has, and V2 runs another one on trial."""

from datetime import datetime
from typing import NamedTuple

from pools.calls import Program
from routing.errors import NoOwnDefinition


class OwnDefinition(NamedTuple):
    """The definition that V2 alone runs. The program has V1's key and id; its revision counts V2's definitions."""

    program: Program
    created_at: datetime
    created_by: str | None


def nothing_to_try(program_id: str, session_id: str | None) -> NoOwnDefinition:
    """Makes the error for a definition of V2's of a program that V1 has not."""
    where = "among the global programs" if session_id is None else f"in the session {session_id!r}"
    return NoOwnDefinition(
        program_id, f"V1 has no program {program_id!r} {where}: create it first, V2's own definition comes after it"
    )


def nothing_of_its_own(program_id: str) -> NoOwnDefinition:
    """Makes the error for a definition of V2's that there is not."""
    return NoOwnDefinition(program_id, f"V2 has no definition of its own of the program {program_id!r}")
