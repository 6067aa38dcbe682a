"""Ownership of sessions and jobs. What has no owner is everyone's."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Caller:
    """The owner on whose behalf a request is made; None owns nothing, so that others may see what it makes."""

    owner: str | None
    sees_all: bool = False

    def may_see(self, owner: str | None) -> bool:
        """Tells if this caller may see what `owner` owns."""
        return self.sees_all or owner is None or owner == self.owner


EVERYONE: Final = Caller(None, sees_all=True)
"""A service without keys tells nobody apart."""
