"""Ownership of sessions, jobs and global programs. What has no owner is everyone's."""

from dataclasses import dataclass
from typing import Final

from routing.errors import NotTheOwner


@dataclass(frozen=True, slots=True)
class Caller:
    """The owner on whose behalf a request is made; None owns nothing, so that others may see what it makes."""

    owner: str | None
    sees_all: bool = False

    def may_see(self, owner: str | None) -> bool:
        """Tells if this caller may see what `owner` owns."""
        return self.sees_all or owner is None or owner == self.owner


@dataclass(frozen=True, slots=True)
class Editor:
    """The one who makes and changes programs, by the name that revisions show."""

    name: str | None
    owner: str | None = None
    """The owner of the global programs that it makes; a key without an owner makes programs for everyone."""
    changes_all: bool = False

    @property
    def account(self) -> str:
        """The name under which deleted programs are counted."""
        return self.owner or self.name or ""

    def may_edit(self, owner: str | None, *, is_shared: bool) -> bool:
        """Tells if it may change or delete a global program of `owner`."""
        return self.changes_all or owner is None or owner == self.owner or is_shared

    def check(self, program_id: str, owner: str | None, *, is_shared: bool, stays_shared: bool = True) -> None:
        """Tells if it may change or delete a global program of `owner`.

        Raises:
            NotTheOwner: it may not, or it may, but not end that the program is shared.
        """
        if owner is None or self.may_edit(owner, is_shared=False):
            return
        if not is_shared:
            raise NotTheOwner(program_id, owner)
        if not stays_shared:
            raise NotTheOwner(program_id, owner, "alone may end that it is shared: send `shared: true`")


NOBODY: Final = Editor(None)
EVERYONE: Final = Caller(None, sees_all=True)
"""A service without keys tells nobody apart."""
