"""The store of validations and of what people have confirmed."""

from collections.abc import Mapping
from typing import Any, Protocol

from routing.migration.checklist import Item, Tick, Validation


class MigrationStore(Protocol):
    """Keeps validations and ticks for ever. Every method raises StoreUnavailable if the store does not answer."""

    async def latest(self) -> Validation | None:
        """Reads the newest validation."""
        ...

    async def before(self, key: int) -> Validation | None:
        """Reads the validation before another."""
        ...

    async def add(self, by: str, pools: str, items: tuple[Item, ...], report: Mapping[str, Any]) -> Validation:
        """Keeps a validation."""
        ...

    async def ticks(self) -> Mapping[str, Tick]:
        """Reads what people have confirmed, by item."""
        ...

    async def tick(self, item: str, by: str, note: str | None) -> None:
        """Keeps a person's word for an item, in place of an earlier one."""

    async def untick(self, item: str) -> None:
        """Forgets a person's word for an item."""
