"""V2's own definitions of programs: V1 keeps the definition that it has, and V2 runs another one on trial."""

import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

from pools.calls import Program
from routing.catalog.definitions import encode_definition
from routing.errors import NoOwnDefinition


class OwnDefinition(NamedTuple):
    """The definition that V2 alone runs. The program has V1's key and id; its revision counts V2's definitions."""

    program: Program
    created_at: datetime
    created_by: str | None


class OnTrial:
    """The global programs of which V2 has a definition of its own, with a digest of both definitions of each.

    Programs of sessions are not among them: a ramp must not begin again whenever a session ends.
    """

    def __init__(self) -> None:
        self._digests: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"<OnTrial {sorted(self._digests)}>"

    def note(self, program: Program, v2: Program | None) -> None:
        """Takes note of a program's definitions; `v2` is V2's own, if there is one."""
        if v2 is None:
            self._digests.pop(program.id, None)
            return
        digest = hashlib.sha256(program.key.encode())
        for definition in (program.definition, v2.definition):
            digest.update(hashlib.sha256(encode_definition(definition)).digest())
        self._digests[program.id] = digest.hexdigest()[:16]

    def forget(self, program_id: str) -> None:
        """Forgets a program that there is no longer."""
        self._digests.pop(program_id, None)

    def clear(self) -> None:
        """Forgets all programs."""
        self._digests.clear()

    @property
    def digests(self) -> Mapping[str, str]:
        """The digests, by the programs' ids."""
        return self._digests


def no_program_of_v1(program_id: str, session_id: str | None) -> NoOwnDefinition:
    """Makes the error for a definition of V2's of a program that V1 has not."""
    where = "among the global programs" if session_id is None else f"in the session {session_id!r}"
    return NoOwnDefinition(
        program_id, f"V1 has no program {program_id!r} {where}: create it first, V2's own definition comes after it"
    )


def no_own_definition(program_id: str) -> NoOwnDefinition:
    """Makes the error for a definition of V2's that there is not."""
    return NoOwnDefinition(program_id, f"V2 has no definition of its own of the program {program_id!r}")
