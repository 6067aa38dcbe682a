"""The interface to the place where replicas keep the evidence of shadow calls and scores."""

from collections.abc import Mapping
from typing import Protocol

from routing.shadow.figures import Snapshot


class EvidenceStore(Protocol):
    """Keeps evidence by replica. Every method raises StoreUnavailable if the store does not answer."""

    async def put(self, generation: str, replica: str, snapshot: Snapshot) -> None:
        """Keeps one replica's evidence in place of what it said before, of this generation or another."""

    async def all(self, generation: str) -> Mapping[str, Snapshot]:
        """Reads every replica's evidence of a generation, by replica, those that have died included."""
        ...
