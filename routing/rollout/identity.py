"""The identity of the pools that evidence is about: another pool is another canary."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

MAX_NAMED: Final = 5
"""Parts that are named, of those that differ."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Digests of all that both pools are, by the words for them, such as "V2's code"."""

    parts: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, parts: Mapping[str, str]) -> Self:
        """Makes an identity of digests by their words; no parts stand for pools that are not known."""
        return cls(tuple(sorted(parts.items())))

    def as_json(self) -> dict[str, str]:
        """The digests by their words; `of` reads them back."""
        return dict(self.parts)

    def difference(self, other: "Identity") -> str:
        """Names the parts that differ, in words."""
        mine, theirs = dict(self.parts), dict(other.parts)
        changed = sorted(word for word in {*mine, *theirs} if mine.get(word) != theirs.get(word))
        others = len(changed) - MAX_NAMED
        named = ", ".join(changed[:MAX_NAMED]) or "nothing"
        return f"{named} and {others} others" if others > 0 else named


UNKNOWN: Final = Identity()
"""The identity of pools that have not told what they are."""
