"""Evidence of several replicas: their counters add up, but a key that several of them saw counts once."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from analysis.counters import Counters

KeyedFault = tuple[str, int, float, int, int, str, str, int]
"""Guardrail, hash of the key, canary probability, first start copy, step, code, program, version (0 is V1)."""


def snapshot(counters: Counters, keyed: Sequence[KeyedFault]) -> dict[str, Any]:
    """Returns one replica's evidence as plain data for JSON."""
    return {"counters": counters.to_data(), "keyed": [list(fault) for fault in keyed]}


def others(own: Sequence[KeyedFault], snapshots: Iterable[Mapping[str, Any]]) -> Counters | None:
    """Returns the sum of other replicas' evidence, without the faults of keys that this one or another has counted.

    Faults are the same event if they are of one guardrail, one step and one key: a key's calls share one coin, so that
    its second fault says nothing new (docs/judge.md).

    Raises:
        ValueError: a snapshot is something else.
    """
    seen = {(guardrail, key_hash, w) for guardrail, key_hash, w, *_ in own}
    total = Counters()
    for one in snapshots:
        counters = Counters.from_data(one["counters"])
        for guardrail, key_hash, w, first, step, code, program, version in one.get("keyed", ()):
            if (guardrail, key_hash, w) in seen:
                _take_away(counters, (guardrail, first, step, code, program), version)
            seen.add((guardrail, key_hash, w))
        total = total.merge(counters)
    return total if total.steps else None


def _take_away(counters: Counters, key: tuple[str, int, int, str, str], version: int) -> None:
    pair = counters.events.get(key)
    if pair is not None and pair[version]:
        pair[version] -= 1
