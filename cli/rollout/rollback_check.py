"""Verifies a rollback: it is in force on every replica, V2 gets nothing, and V1 serves."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cli.scrape import Scrape
from cli.service import Service
from poolshift.client import pools, ramp

IN_FORCE_TIMEOUT_S: Final = 30.0
WATCH_S: Final = 5.0
"""Seconds for which V2's dispatches and V1's errors are watched."""
SETTLE_S: Final = 1.0
"""The time in which a call that was on its way to V2 may still begin there."""
_POLL_S: Final = 0.1
_WATCH_EVERY_S: Final = 0.5
_VERSION_FAULTS: Final = frozenset({"worker_crashed", "execution_timeout", "internal_error", "program_quarantined"})
"""The codes that a version is to blame for, whatever the program and the client do."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the verification."""

    holds: bool
    told: str


@dataclass(frozen=True, slots=True)
class Seen:
    """The split's decisions for V2, and V1's answers and faults, as replicas count them."""

    dispatched: float
    answered: float
    faults: float
    replicas: int = 1


def verified(service: Service, began: float) -> list[Finding]:
    """Verifies a rollback that was asked for at `began`, by `time.monotonic`; takes some seconds."""
    return list(_findings(service, began))


def _findings(service: Service, began: float) -> Iterator[Finding]:
    status = _wait_until_in_force(service)
    seconds = time.monotonic() - began
    count = len(status["replicas"])
    if status["canary_percent"] != 0:
        yield Finding(holds=False, told=f"V2 gets {status['canary_percent']:g} % again: somebody has changed it")
    elif status["in_force"]:
        yield Finding(holds=True, told=f"in force on {count} of {count} replicas after {seconds:.2f} s")
    else:
        silent = ", ".join(status["silent"]) or "a replica has an older revision"
        yield Finding(holds=False, told=f"not in force everywhere after {seconds:.2f} s: {silent}")
    time.sleep(SETTLE_S)
    seen = counted(_watched(service))
    where = "" if count <= 1 else f", as {seen.replicas} of {count} replicas count"
    told = f"V2 got {seen.dispatched:.0f} calls of the split in {WATCH_S:g} s{where}"
    yield Finding(holds=seen.dispatched <= 0, told=told)
    if seen.answered:
        told = f"V1 answered {seen.answered:.0f} calls in {WATCH_S:g} s, {seen.faults:.0f} with faults of its own"
        yield Finding(holds=seen.faults == 0, told=told)
    else:
        workers = next(pool for pool in service.ask(pools.listed()) if pool["pool_version"] == "v1")
        live = workers["idle"] + workers["busy"]
        yield Finding(holds=live > 0, told=f"no call came in {WATCH_S:g} s; V1 has {live} live workers")


def _wait_until_in_force(service: Service) -> dict[str, Any]:
    end = time.monotonic() + IN_FORCE_TIMEOUT_S
    while True:
        status: dict[str, Any] = service.ask(ramp.status())
        if status["in_force"] or status["canary_percent"] != 0 or time.monotonic() > end:
            return status
        time.sleep(_POLL_S)


def _watched(service: Service) -> list[Scrape]:
    """Reads the metrics for some seconds, from whichever replicas a balancer leads to."""
    scrapes: list[Scrape] = []
    end = time.monotonic() + WATCH_S
    while True:
        is_over = time.monotonic() >= end
        scrapes.append(Scrape(service.answer(pools.metrics()).value))
        if is_over:
            return scrapes
        time.sleep(_WATCH_EVERY_S)


def counted(scrapes: Sequence[Scrape]) -> Seen:
    """Adds up the growth of the counts from a replica's first scrape to its last one: no two replicas are compared."""
    first: dict[float, Seen] = {}
    last: dict[float, Seen] = {}
    for scrape in scrapes:
        last[scrape.replica] = seen = _seen(scrape)
        first.setdefault(scrape.replica, seen)
    return Seen(
        sum(seen.dispatched - first[replica].dispatched for replica, seen in last.items()),
        sum(seen.answered - first[replica].answered for replica, seen in last.items()),
        sum(seen.faults - first[replica].faults for replica, seen in last.items()),
        len(last),
    )


def _seen(scrape: Scrape) -> Seen:
    requests = "poolshift_requests_total"
    return Seen(
        scrape.total("poolshift_routing_decisions_total", pool_version="v2", reason="split"),
        scrape.total(requests, pool_version="v1"),
        scrape.total(requests, lambda labels: labels["outcome"] in _VERSION_FAULTS, pool_version="v1"),
    )
