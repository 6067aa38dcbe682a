"""The calls of each version by day and by reason, added up in the store: who still needs V1, and the peak of a day."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from common.log_once import LogOnce
from routing.errors import StoreUnavailable
from routing.versions import Reason, Version

INTERVAL_S = 60.0
"""Seconds between two additions to the store: the unit of a peak."""

Decisions = Mapping[tuple[Version, Reason], int]


@dataclass(frozen=True, slots=True)
class DayOfUse:
    """The calls of one version, for one reason, on one day (UTC)."""

    day: str
    version: Version
    reason: Reason
    calls: int
    peak_per_minute: int
    """The most calls that one replica has decided in a minute."""


class UsageStore(Protocol):
    """Keeps the calls by day. Every method raises StoreUnavailable if the store does not answer."""

    async def add(self, rows: Sequence[DayOfUse]) -> None:
        """Adds calls to those of the day, and raises the peak of the day."""

    async def since(self, day: str) -> Sequence[DayOfUse]:
        """Reads the days from `day` on."""
        ...


class Usage:
    """Adds the decisions of this replica to the store, once a minute and at the end."""

    def __init__(self, decisions: Callable[[], Decisions], store: UsageStore) -> None:
        """Asks `decisions` for all calls decided since the start of the service."""
        self._decisions = decisions
        self._store = store
        self._added: dict[tuple[Version, Reason], int] = {}
        self._log_once = LogOnce("calls by day cannot be added to the store")

    async def run(self) -> None:
        """Adds until it is cancelled."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            await self.flush()

    async def flush(self) -> None:
        """Adds the calls since the last time; calls that cannot be added now are added later."""
        now = dict(self._decisions())
        grown = {key: count - self._added.get(key, 0) for key, count in now.items()}
        day = datetime.now(UTC).strftime("%Y-%m-%d")
        rows = [DayOfUse(day, version, reason, calls, calls) for (version, reason), calls in grown.items() if calls]
        try:
            if rows:
                await self._store.add(rows)
        except StoreUnavailable as error:
            self._log_once.warn(str(error))
        else:
            self._added = now
            self._log_once.clear()

    async def since(self, day: str) -> Sequence[DayOfUse]:
        """Reads the days from `day` on, with what this replica has not added yet. Raises StoreUnavailable."""
        await self.flush()
        return await self._store.since(day)
