"""The rollout's log: every revision, in order, shared by all replicas."""

from collections.abc import Sequence
from typing import Protocol

from routing.rollout.model import Change, Rollout


class Append(Protocol):
    """Writes a change, as `RolloutLog.append` does."""

    async def __call__(self, change: Change, *, after: int) -> Rollout: ...


class RolloutLog(Protocol):
    """Keeps revisions for ever. Every method raises StoreUnavailable if the store does not answer."""

    async def latest(self) -> Rollout | None:
        """Reads the newest revision; None if there is none yet."""
        ...

    async def append(self, change: Change, *, after: int) -> Rollout:
        """Makes `change` the revision that follows `after`: a compare-and-set.

        Raises:
            StaleRevision: `after` is not the newest revision.
        """
        ...

    async def history(self, *, limit: int, before: int | None = None) -> Sequence[Rollout]:
        """Reads revisions older than `before`, the newest first."""
        ...

    async def rotation(self) -> Rollout | None:
        """Reads the newest rotation; None if there is none."""
        ...

    async def last_seen(self, source: str) -> str | None:
        """Reads the value that a source had when a replica last looked at the source."""
        ...

    async def saw(self, source: str, value: str) -> None:
        """Notes the value of a source."""
        ...
