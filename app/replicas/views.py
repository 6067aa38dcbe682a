"""Merges what the replicas of a machine tell of themselves into what is so of the machine: pure functions."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import chain, zip_longest
from typing import Protocol, TypeVar

from app.replicas.machine import Told
from app.replicas.told import FailuresTold, LiveTold, StatusTold
from pools.protocol import PoolSnapshot, Quarantined, WorkerSnapshot
from routing.rollout.ramp_store import ReplicaReport
from routing.telemetry.failures import Failure
from routing.versions import Version

_Item = TypeVar("_Item")
_Key = TypeVar("_Key")


class _Dated(Protocol):
    @property
    def at(self) -> datetime:
        """The time of it."""
        ...


_DatedItem = TypeVar("_DatedItem", bound=_Dated)


def whole_pools(told: Sequence[Told[LiveTold]]) -> list[PoolSnapshot]:
    """Adds up the parts of all pools that any replica runs, in their order."""
    parts: dict[str, list[Told[PoolSnapshot]]] = {}
    for one in told:
        for snapshot in one.answer.pools:
            parts.setdefault(snapshot.version, []).append(Told(one.replica, snapshot))
    return [whole_pool(of_one) for of_one in parts.values()]


def whole_pool(parts: Sequence[Told[PoolSnapshot]]) -> PoolSnapshot:
    """Adds up the parts of one pool; means have the weights of what they are about. There is one part at least.

    What the parts have in common, such as the code of new workers, is that of the first.
    """
    snapshots = [part.answer for part in parts]
    wished = [one.wished_size for one in snapshots if one.wished_size is not None]
    exits = summed(one.worker_exits_total for one in snapshots)
    return replace(
        snapshots[0],
        size=_sum(snapshots, lambda one: one.size),
        wished_size=sum(wished) if wished else None,
        busy=_sum(snapshots, lambda one: one.busy),
        idle=_sum(snapshots, lambda one: one.idle),
        starting=_sum(snapshots, lambda one: one.starting),
        warm=_sum(snapshots, lambda one: one.warm),
        stopping=_sum(snapshots, lambda one: one.stopping),
        queue_depth=_sum(snapshots, lambda one: one.queue_depth),
        utilization=_mean([(one.utilization, one.size) for one in snapshots]),
        service_time_s=_mean([(one.service_time_s, one.dispatched_total) for one in snapshots]),
        dispatched_total=_sum(snapshots, lambda one: one.dispatched_total),
        worker_starts_total=_sum(snapshots, lambda one: one.worker_starts_total),
        worker_exits_total=exits,
        cpu_seconds_total=sum(one.cpu_seconds_total for one in snapshots),
        workers=tuple(chain.from_iterable(map(_workers, parts))),
        quarantined=_quarantined(snapshots),
        run_alone=tuple({one.key: one for one in chain.from_iterable(one.run_alone for one in snapshots)}.values()),
        fault=_fault(parts),
    )


def _workers(part: Told[PoolSnapshot]) -> Iterable[WorkerSnapshot]:
    return (replace(worker, replica=part.replica) for worker in part.answer.workers)


def _quarantined(snapshots: Sequence[PoolSnapshot]) -> tuple[Quarantined, ...]:
    """Each program once, as the replica has it that refuses it longest."""
    found: dict[str, Quarantined] = {}
    for one in chain.from_iterable(snapshot.quarantined for snapshot in snapshots):
        if one.key not in found or found[one.key].left_s < one.left_s:
            found[one.key] = one
    return tuple(found.values())


def _fault(parts: Sequence[Told[PoolSnapshot]]) -> str | None:
    """The fault that all have, or that of the first which has any."""
    faults = [part.answer.fault for part in parts]
    if len(set(faults)) == 1:
        return faults[0]
    return next(f"replica {part.replica}: {part.answer.fault}" for part in parts if part.answer.fault is not None)


@dataclass(frozen=True, slots=True)
class WholeFailures:
    """The failed calls of all replicas."""

    since: float
    counts: Mapping[tuple[str, Version], int]
    newest: Sequence[Failure]


def whole_failures(parts: Sequence[FailuresTold]) -> WholeFailures:
    """Adds up failed calls, and brings the newest into one order. There is one part at least."""
    return WholeFailures(
        since=min(part.since for part in parts),
        counts=summed({(code, version): count for code, version, count in part.counts} for part in parts),
        newest=sorted(chain.from_iterable(part.newest for part in parts), key=lambda one: one.at, reverse=True),
    )


def leading(parts: Sequence[Told[StatusTold]], this: int | None) -> StatusTold:
    """The word of the replica that leads, which sees the evidence of all; if none here does, that of `this` one."""
    own = next(part.answer for part in parts if part.replica == this)
    return next((part.answer for part in parts if part.answer.leads), own)


def summed(parts: Iterable[Mapping[_Key, int]]) -> dict[_Key, int]:
    """Adds up counts by key."""
    total: Counter[_Key] = Counter()
    for part in parts:
        total.update(part)
    return dict(total)


def added(parts: Iterable[Sequence[int]]) -> list[int]:
    """Adds up rows of counts, place by place."""
    return [sum(column) for column in zip(*parts, strict=True)]


def interleaved(parts: Iterable[Sequence[_Item]], most: int) -> list[_Item]:
    """Takes one of each part in turn, `most` at the most: no replica's examples crowd out those of another."""
    nothing = object()
    rows = zip_longest(*parts, fillvalue=nothing)
    found = [one for one in chain.from_iterable(rows) if one is not nothing]
    return found[:most]  # type: ignore[return-value]  # mypy sees the filling


def newest(parts: Iterable[_DatedItem | None]) -> _DatedItem | None:
    """The newest of those that there are."""
    return max((one for one in parts if one is not None), key=lambda one: one.at, default=None)


def whole_reports(
    stored: Sequence[ReplicaReport], parts: Sequence[Told[StatusTold]], place_of: Callable[[str], int | None]
) -> list[ReplicaReport]:
    """The reports of all replicas: what those of this machine say now, and what the store has of all others.

    `place_of` tells which replica of this machine has had an id. A replica that has died may have left a report;
    its successor's takes its place.
    """
    told = {part.replica: part.answer.report for part in parts if part.replica is not None}
    others: dict[int | str, ReplicaReport] = {}
    for report in stored:
        place = place_of(report.id)
        key = report.id if place is None else place
        if key not in told and (key not in others or others[key].seen_at < report.seen_at):
            others[key] = report
    return [*others.values(), *told.values()]


def _sum(snapshots: Sequence[PoolSnapshot], figure: Callable[[PoolSnapshot], int]) -> int:
    return sum(map(figure, snapshots))


def _mean(weighted: Sequence[tuple[float, int]]) -> float:
    total = sum(weight for _, weight in weighted)
    return sum(value * weight for value, weight in weighted) / total if total else 0.0
