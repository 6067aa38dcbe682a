"""Runs the ten checks in their order, tells each as it ends, and cleans up whatever happens."""

import contextlib
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx

from cli.scrape import Scrape
from cli.validation import errors, live, measure, parallel
from cli.validation.conformance import CASES, Mismatch, Target
from cli.validation.outcome import Outcome
from cli.validation.scratch import NoScratch, Scratch, scratch_service

NEEDS_SCRATCH = ("tests", "concurrency", "sessions", "errors", "memory")
"""Items that are tried on a service beside the live one."""


class Unusable(Exception):
    """A key or inputs with which a validation would end halfway. The message says why."""


class NotAdmin(Unusable):
    """A key that may not force a version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A validation as the user has asked for it."""

    inputs: Sequence[measure.Inputs]
    rate: float | None
    """The peak in calls a second; None is what the service has counted."""
    multiple: float
    memory_s: float


@dataclass(slots=True)
class _Live:
    """The live service as it was when the validation began."""

    client: httpx.Client
    pools: list[dict[str, Any]]
    migration: dict[str, Any]
    scrape: Scrape

    @property
    def sizes(self) -> dict[str, int]:
        """Workers by version."""
        return {pool["pool_version"]: pool["size"] for pool in self.pools}


def validate(client: httpx.Client, plan: Plan, tell: Callable[[Outcome], None]) -> tuple[str, list[Outcome]]:
    """Runs all checks. Returns the identity of the pools that were validated, and the outcomes in order.

    Raises:
        Unusable: the key or the inputs would end the validation halfway.
        httpx.HTTPError: the service does not answer.
    """
    migration = _json(client, "/migration")
    _require_admin(client)
    _require_programs(client, plan.inputs)
    service = _Live(client, _json(client, "/pools"), migration, live.scrape(client))
    outcomes: list[Outcome] = []
    for outcome in _outcomes(service, plan):
        outcomes.append(outcome)
        tell(outcome)
    order = [one["item"] for one in migration["checklist"]]
    return migration["pools"], sorted(outcomes, key=lambda one: order.index(one.item))


def _require_admin(client: httpx.Client) -> None:
    """Forces a version: a key without the scope admin is refused now, and not after minutes."""
    answer = Target(client, "v2").execute(f"validation-{uuid.uuid4().hex}")
    if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        raise NotAdmin(f"a validation needs a key with the scope admin: {answer.json()['detail']}")


def _require_programs(client: httpx.Client, inputs: Sequence[measure.Inputs]) -> None:
    """Looks for the programs of the inputs."""
    for program in dict.fromkeys(one.program for one in inputs):
        if client.get(f"/programs/{quote(program, safe='')}").status_code == httpx.codes.NOT_FOUND:
            raise Unusable(f"the inputs name {program!r}, and the service has no such program without a session")


def _outcomes(service: _Live, plan: Plan) -> Iterator[Outcome]:
    yield from _on_scratch(service, plan)
    client = service.client
    benchmarks = _benchmarks(service, plan)
    yield benchmarks
    failed = benchmarks.figures.get("errors", {}).get("v2", {})
    peak = _peak(service) if plan.rate is None else plan.rate
    yield _tried("load", lambda: measure.check_load(client, plan.inputs, peak, plan.multiple, failed))
    yield _tried("metrics", lambda: live.check_metrics(client, service.scrape, 1, list(service.sizes), plan.inputs))
    yield _tried("error_rate", lambda: live.check_error_rate(client))
    yield _tried("documentation", lambda: live.check_documentation(client, _programs(client)))


def _benchmarks(service: _Live, plan: Plan) -> Outcome:
    if len(service.pools) < 2:
        return Outcome("benchmarks", "unknown", "V1 does not run: there is nothing to compare V2 with", "")
    return _tried("benchmarks", lambda: measure.check_benchmarks(service.client, plan.inputs, service.sizes))


def _on_scratch(service: _Live, plan: Plan) -> Iterator[Outcome]:
    done: set[str] = set()
    try:
        for outcome in _scratch_outcomes(service, plan):
            done.add(outcome.item)
            yield outcome
    except NoScratch as error:
        for item in NEEDS_SCRATCH:
            if item not in done:
                yield Outcome(item, "unknown", str(error), "run it on the service's own machine, or in its container")


def _scratch_outcomes(service: _Live, plan: Plan) -> Iterator[Outcome]:
    versions = list(service.sizes)
    with scratch_service(service.pools) as scratch, scratch.client() as client:
        yield _conformance(client, versions)
        yield _tried("concurrency", lambda: parallel.check_concurrency(client, service.sizes))
        yield _tried("sessions", lambda: parallel.check_sessions(client, versions))
        yield _tried("memory", lambda: _memory(client, scratch, service, plan))
    with scratch_service(service.pools, **errors.SETTINGS) as scratch, scratch.client() as client:
        yield _tried("errors", lambda: errors.compare_errors(client, versions))


def _memory(client: httpx.Client, scratch: Scratch, service: _Live, plan: Plan) -> Outcome:
    return measure.check_memory(client, scratch.pid, service.sizes, seconds=plan.memory_s)


def _conformance(client: httpx.Client, versions: list[str]) -> Outcome:
    failed: dict[str, str] = {}
    for version in versions:
        for name, case in CASES.items():
            try:
                case(Target(client, version))
            except (Mismatch, httpx.HTTPError, KeyError, ValueError) as error:
                failed[f"{name} on {version}"] = str(error) or type(error).__name__
    count = len(CASES) * len(versions)
    if failed:
        told = "; ".join(f"{name}: {why}" for name, why in failed.items())
        return Outcome("tests", "not_met", f"{len(failed)} of {count} fail: {told}", "", {"failed": failed})
    return Outcome("tests", "met", f"{count} conformance tests pass", figures={"cases": list(CASES)})


def _tried(item: str, check: Callable[[], Outcome]) -> Outcome:
    """A check that itself fails on a version is an item that is not met."""
    try:
        return check()
    except Mismatch as error:
        return Outcome(item, "not_met", str(error), "poolshift migration report")
    except (httpx.HTTPError, KeyError, ValueError) as error:
        return Outcome(item, "unknown", f"the check failed: {type(error).__name__}: {error}", "run it again")


def _peak(service: _Live) -> float:
    """The highest rate that one replica has counted in the last days, in calls a second."""
    days: dict[str, int] = {}
    for one in service.migration["usage"]:
        if one["reason"] == "split":
            days[one["day"]] = days.get(one["day"], 0) + one["peak_per_minute"]
    return max(days.values(), default=0) / 60


def _programs(client: httpx.Client) -> list[dict[str, Any]]:
    """All global programs but those that a validation has left."""
    items: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        page = _json(client, "/programs", limit=1000, **({"cursor": cursor} if cursor else {}))
        items += page["items"]
        cursor = page["next_cursor"]
        if cursor is None:
            return items


def _json(client: httpx.Client, path: str, **params: Any) -> Any:
    answer = client.get(path, params=params)
    with contextlib.suppress(ValueError):
        if answer.is_success:
            return answer.json()
    raise httpx.HTTPError(f"{path} answers {answer.status_code}: {answer.text[:500]}")
