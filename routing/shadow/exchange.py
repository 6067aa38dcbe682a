"""Keeps the evidence of shadow calls and scores in the store, and adds that of other replicas and earlier runs.

Evidence belongs to a generation: what both pools are, with their code, packages and LMs. A pool that becomes another
one begins a new generation, so no evidence about other code is ever added.
"""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

from common.log_once import LogOnce
from common.shared_run import SharedRun
from common.threads import in_thread
from routing.errors import StoreUnavailable
from routing.shadow.evidence import ShadowEvidence
from routing.shadow.evidence_store import EvidenceStore
from routing.shadow.figures import Snapshot, Totals

EXCHANGE_EVERY_S: Final = 5.0
"""Time between two exchanges with the store, in seconds: so much evidence is lost by a crash."""
CLOSE_S: Final = 5.0
"""Time that the last exchange may take, in seconds."""
ALONE: Final = "only"
"""The name of a service that shares its database with no other: it goes on with its row after a restart."""


class EvidenceExchange:
    """Exchanges the evidence of one replica with the store."""

    def __init__(
        self,
        evidence: ShadowEvidence,
        store: EvidenceStore,
        generation: Callable[[], Awaitable[str | None]],
        *,
        is_shared: bool,
    ) -> None:
        """Asks `generation` for the identity of the pools; None if that cannot be told now."""
        self._evidence = evidence
        self._store = store
        self._generation_of_now = generation
        self._is_shared = is_shared
        self._replica = uuid.uuid4().hex if is_shared else ALONE
        self._generation: str | None = None
        self._heard: list[Totals] = []
        self._read_before: dict[str, Snapshot] = {}
        self._restarts = 0
        self._known: tuple[list[Totals], int] = ([], -1)
        self._written: dict[str, Any] = Totals().to_data()
        self.exchange: Final = SharedRun(self._exchange)
        """Keeps the evidence of this replica, and hears what others, and runs before this one, have kept."""
        self._log_once = LogOnce("shadow evidence cannot be exchanged with the store")

    async def run(self) -> None:
        """Exchanges until it is cancelled."""
        while True:
            await self.exchange()
            await asyncio.sleep(EXCHANGE_EVERY_S)

    async def _exchange(self) -> None:
        generation = await self._generation_of_now()
        if generation is None:
            return
        try:
            if generation != self._generation:
                await self._begin(generation)
            await self._put(generation)
            if self._is_shared:
                await self._read(generation)
        except StoreUnavailable as error:
            self._log_once.warn(str(error))
            return
        self._log_once.clear()
        self._hear()

    async def aclose(self) -> None:
        """Keeps the evidence a last time, unless that takes too long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await self.exchange()

    async def _begin(self, generation: str) -> None:
        """Goes on with the evidence of a generation; that of the one before is about other pools."""
        await self._read(generation)
        if self._generation is not None:
            self._evidence.restart()
        self._generation = generation
        self._restarts = self._evidence.restarts
        self._hear()

    def _hear(self) -> None:
        """Tells the evidence what others have kept, if that or what is known about definitions has changed."""
        if not self._is_shared and self._evidence.restarts != self._restarts:
            self._heard = []  # that of earlier runs was this service's own, which has begun again
            self._restarts = self._evidence.restarts
        known = self._heard, self._evidence.definitions_noted
        if known[0] is not self._known[0] or known[1] != self._known[1]:
            self._evidence.hear(self._heard)
            self._known = self._heard, self._evidence.definitions_noted

    async def _put(self, generation: str) -> None:
        totals = self._evidence.own() if self._is_shared else self._evidence.inherited()
        data = totals.to_data()
        if data != self._written:
            await self._store.put(generation, self._replica, data)
            self._written = data

    async def _read(self, generation: str) -> None:
        snapshots = dict(await self._store.all(generation))
        if self._is_shared:
            snapshots.pop(self._replica, None)
        if snapshots != self._read_before:
            parts = [snapshots[replica] for replica in sorted(snapshots)]
            self._heard = await in_thread(lambda: [Totals.from_data(one) for one in parts])
            self._read_before = snapshots
