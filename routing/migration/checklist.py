"""The validation checklist of the migration guide: ten items, and those that a plan adds for people to tick."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any


class ItemState(StrEnum):
    """The state of an item. Too few data, or an interval that holds both answers, is unknown."""

    MET = "met"
    NOT_MET = "not_met"
    UNKNOWN = "unknown"


ITEMS: tuple[tuple[str, str], ...] = (
    ("tests", "the conformance tests pass on either version"),
    ("concurrency", "as many calls run at once on V2 as it has workers"),
    ("benchmarks", "V2 is no slower than V1 with programs and inputs of yours"),
    ("load", "V2 takes a multiple of the peak load without errors"),
    ("sessions", "programs, language models and results of sessions never cross"),
    ("errors", "both versions answer every error alike"),
    ("metrics", "all metrics are there, and their number is stable"),
    ("error_rate", "the judge and the shadow runs see no more errors on V2"),
    ("memory", "the memory of service and workers does not grow under load"),
    ("documentation", "every program has a description, and a person has confirmed the rest"),
)
"""The ten items with what each of them asserts."""
NAMES = tuple(name for name, _ in ITEMS)
DOCUMENTATION = "documentation"
VALIDATE = "poolshift migration validate"


@dataclass(frozen=True, slots=True)
class Item:
    """An item of the checklist: its state, the evidence for that, and the way to get it met."""

    item: str
    state: ItemState
    evidence: str
    how: str


@dataclass(frozen=True, slots=True)
class Tick:
    """A person's word that something is done."""

    item: str
    by: str
    at: datetime
    note: str | None


@dataclass(frozen=True, slots=True)
class Validation:
    """The result of `poolshift migration validate`, as it was stored."""

    key: int
    at: datetime
    by: str
    pools: str
    """The identity of the pools that were validated: other pools are other evidence."""
    items: tuple[Item, ...]
    report: Mapping[str, Any]
    """The figures, as the command sent them."""


def checklist(
    validation: Validation | None, pools: str, ticks: Mapping[str, Tick], manual: Sequence[str] = ()
) -> tuple[Item, ...]:
    """The ten items and those of the plan. A validation of other `pools` than those that run now proves nothing."""
    found = {one.item: one for one in validation.items} if validation is not None else {}
    is_current = validation is not None and validation.pools == pools
    items = [_validated(name, found.get(name), is_current=is_current) for name in NAMES]
    return (*(_documented(one, ticks) for one in items), *_manual(manual, ticks))


def _validated(name: str, found: Item | None, *, is_current: bool) -> Item:
    if found is None:
        return Item(name, ItemState.UNKNOWN, "no validation has run", VALIDATE)
    if not is_current:
        evidence = f"the pools have changed since the validation, which said {found.state}"
        return Item(name, ItemState.UNKNOWN, evidence, VALIDATE)
    return found


def _documented(item: Item, ticks: Mapping[str, Tick]) -> Item:
    """The item about documentation needs a person's word beside what can be checked."""
    if item.item != DOCUMENTATION or item.state is not ItemState.MET:
        return item
    tick = ticks.get(DOCUMENTATION)
    if tick is None:
        return replace(item, state=ItemState.UNKNOWN, how=_tick_command(DOCUMENTATION))
    return replace(item, evidence=f"{item.evidence}; {_told(tick)}")


def _manual(names: Iterable[str], ticks: Mapping[str, Tick]) -> Iterable[Item]:
    for name in names:
        tick = ticks.get(name)
        if tick is None:
            yield Item(name, ItemState.UNKNOWN, "nobody has confirmed it", _tick_command(name))
        else:
            yield Item(name, ItemState.MET, _told(tick), "")


def _tick_command(name: str) -> str:
    return f"poolshift migration tick {name!r}"


def _told(tick: Tick) -> str:
    note = f": {tick.note}" if tick.note else ""
    return f"confirmed by {tick.by} on {tick.at:%Y-%m-%d}{note}"
