"""Verifies a rollback: it is in force on every replica, V2 gets nothing, and callers get answers without faults."""

import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from analysis.guardrails import codes_of
from app.problem_kinds import KINDS
from cli.scrape import ReplicaRun, Scrape
from cli.service import Service
from poolshift.client import pools, ramp, rollout

IN_FORCE_TIMEOUT_S: Final = 30.0
WATCH_S: Final = 5.0
"""Seconds for which V2's dispatches and V1's errors are watched."""
SETTLE_S: Final = 1.0
"""The time in which a call that was on its way to V2 may still begin there."""
_POLL_S: Final = 0.1
_WATCH_EVERY_S: Final = 0.5
_FAULTS: Final = frozenset({code for code, kind in KINDS.items() if kind.status >= 500}) | {
    "code_outdated",
    "lm_not_configured",
}
"""The outcomes of a call that are not the caller's fault."""
_ENGINE_FAULTS: Final = frozenset(codes_of("engine"))
"""The faults that a version is to blame for, whatever the program and the language model do."""
MAX_FAULTS: Final = 0.01
"""Share of answers that may have other faults: programs and language models fail now and then."""
_NOT_OF_CALLERS: Final = frozenset({"shadow", "synthetic"})
"""Operations that no caller has asked for."""


Count = Callable[[Scrape, ReplicaRun], float]
"""Reads the count of one replica."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the verification."""

    holds: bool
    told: str


@dataclass(frozen=True, slots=True)
class Seen:
    """The decisions for V2 that no header forced, and one version's answers and faults by code, as replicas count."""

    dispatched: float
    answered: float
    faults: Mapping[str, float] = field(default_factory=dict[str, float])
    replicas: int = 1

    @property
    def is_healthy(self) -> bool:
        """Tells if no fault is the engine's, and others are as rare as usual."""
        return _ENGINE_FAULTS.isdisjoint(self.faults) and sum(self.faults.values()) <= MAX_FAULTS * self.answered


def verified(service: Service, began: float, unwritten: str | None = None) -> list[Finding]:
    """Verifies a rollback that was asked for at `began`, by `time.monotonic`; takes some seconds.

    `unwritten` is what the service has said if it could not write the rollback then.
    """
    findings = list(_findings(service, began))
    return findings if unwritten is None else [*findings, _written(service, unwritten)]


def _written(service: Service, unwritten: str) -> Finding:
    """Tells if the service has written the rollback since: without that, a restart would forget it."""
    if "etag" in service.answer(rollout.show()).raw.headers:
        return Finding(holds=True, told="written to the database, at a later attempt")
    return Finding(holds=False, told=f"not written to the database yet, so that a restart would forget it: {unwritten}")


def _findings(service: Service, began: float) -> Iterator[Finding]:
    status = _wait_until_in_force(service)
    pin: str | None = service.ask(rollout.show())["pool_version"]
    yield _in_force(status, time.monotonic() - began)
    if pin is not None:
        told = f"POOL_VERSION={pin} sends all calls to {pin.upper()} whatever the rollout says"
        yield Finding(holds=pin == "v1", told=f"{told}{'' if pin == 'v1' else ': start the service without it'}")
    time.sleep(SETTLE_S)
    serving = pin or "v1"
    seen = counted(_watched(service), serving)
    count = len(status["replicas"])
    where = "" if count <= 1 else f", as {seen.replicas} of {count} replicas count"
    told = f"V2 got {seen.dispatched:.0f} calls {'of the split ' if pin is None else ''}in {WATCH_S:g} s{where}"
    yield Finding(holds=seen.dispatched <= 0, told=told)
    yield _answers(service, serving, seen)


def _in_force(status: Mapping[str, Any], seconds: float) -> Finding:
    count = len(status["replicas"])
    if status["canary_percent"] != 0:
        return Finding(holds=False, told=f"V2 gets {status['canary_percent']:g} % again: somebody has changed it")
    if status["in_force"]:
        return Finding(holds=True, told=f"in force on {count} of {count} replicas after {seconds:.2f} s")
    silent = ", ".join(status["silent"]) or "a replica has an older revision"
    return Finding(holds=False, told=f"not in force everywhere after {seconds:.2f} s: {silent}")


def _answers(service: Service, serving: str, seen: Seen) -> Finding:
    """Tells what callers got of the version that serves."""
    if seen.answered:
        by_code = ", ".join(f"{count:.0f} {code}" for code, count in sorted(seen.faults.items()))
        told = f"{serving.upper()} answered {seen.answered:.0f} calls in {WATCH_S:g} s, faults: {by_code or 'none'}"
        return Finding(holds=seen.is_healthy, told=told)
    pool = next(pool for pool in service.ask(pools.listed()) if pool["pool_version"] == serving)
    live = sum(worker["state"] in ("idle", "busy") for worker in pool["workers"])
    return Finding(holds=live > 0, told=f"no call came in {WATCH_S:g} s; {serving.upper()} has {live} live workers")


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


def counted(scrapes: Sequence[Scrape], serving: str) -> Seen:
    """Adds up the growth of the counts from a replica's first scrape to its last one: no two replicas are compared.

    The answers and faults are those of the version `serving`.
    """
    first: dict[ReplicaRun, Scrape] = {}
    last: dict[ReplicaRun, Scrape] = {}
    for scrape in scrapes:
        for replica in scrape.replicas:
            last[replica] = scrape
            first.setdefault(replica, scrape)

    def grown(count: Count) -> float:
        return sum(count(scrape, replica) - count(first[replica], replica) for replica, scrape in last.items())

    faults = {code: grown(_answered(serving, {code})) for code in sorted(_FAULTS)}
    return Seen(
        grown(_dispatched),
        grown(_answered(serving)),
        {code: count for code, count in faults.items() if count > 0},
        len(last),
    )


def _dispatched(scrape: Scrape, replica: ReplicaRun) -> float:
    """Returns the decisions for V2 of a replica's router, without those that an admin's header forced."""
    decisions = "poolshift_routing_decisions_total"
    return scrape.total(decisions, lambda labels: labels["reason"] != "forced", pool_version="v2", **replica.labels)


def _answered(version: str, outcomes: Container[str] | None = None) -> Count:
    """Returns the count of a version's answers to callers with these outcomes, or of all, on one replica."""

    def counts(labels: Mapping[str, str]) -> bool:
        return labels["operation"] not in _NOT_OF_CALLERS and (outcomes is None or labels["outcome"] in outcomes)

    return lambda scrape, replica: scrape.total(
        "poolshift_requests_total", counts, pool_version=version, **replica.labels
    )
