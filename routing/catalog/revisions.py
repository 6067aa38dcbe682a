"""Revisions of a program: the condition for a change, the result of a change, and the revisions that are kept."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple

import msgspec

from routing.errors import StaleProgram

KEPT_REVISIONS: Final = 100
"""Revisions of a program that the store keeps at most, with the one in force. A new revision drops the oldest."""
ALWAYS_KEPT_REVISIONS: Final = 20
"""Revisions that the store keeps however large they are."""
KEPT_BYTES: Final = 8 * 1024**2
"""Bytes of former definitions of a program, beyond which no more than `ALWAYS_KEPT_REVISIONS` are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Precondition:
    """The state that a program must be in before a change. Without members it may be in any."""

    must_exist: bool = False
    must_be_new: bool = False
    revision: int | None = None
    """The revision that must be in force."""

    def check(self, program_id: str, revision: int | None) -> None:
        """Takes the revision in force, or None if there is no such program.

        Raises:
            StaleProgram: the program is in another state.
        """
        is_missing = revision is None and (self.must_exist or self.revision is not None)
        is_other = revision is not None and (self.must_be_new or self.revision not in (None, revision))
        if is_missing or is_other:
            raise StaleProgram(program_id, revision)


ANY_STATE: Final = Precondition()


class ProgramRevision(NamedTuple):
    """One definition that a program has or had."""

    revision: int
    definition: msgspec.Raw
    """JSON, as `routing.catalog.definitions` writes it."""
    created_at: datetime
    created_by: str | None
    """The name of an API key; None for a program of a version that noted no names."""


class RevisionPage(NamedTuple):
    """Some revisions of a program, the newest first; `has_more` tells that older ones follow."""

    revisions: Sequence[ProgramRevision]
    has_more: bool
