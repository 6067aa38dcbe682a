"""Verifies a rollback: it is in force on every replica, V2 gets nothing, and V1 serves."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from prometheus_client.parser import text_string_to_metric_families

from cli.service import Service
from poolshift.client import pools, ramp

IN_FORCE_TIMEOUT_S: Final = 30.0
WATCH_S: Final = 5.0
"""Seconds for which V2's dispatches and V1's errors are watched."""
SETTLE_S: Final = 1.0
"""The time in which a call that was on its way to V2 may still begin there."""
_POLL_S: Final = 0.1
_VERSION_FAULTS: Final = frozenset({"worker_crashed", "execution_timeout", "internal_error", "program_quarantined"})
"""The codes that a version is to blame for, whatever the program and the client do."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the verification."""

    holds: bool
    told: str


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
    before = _seen(service)
    time.sleep(WATCH_S)
    after = _seen(service)
    dispatched = after["dispatched"] - before["dispatched"]
    told = f"V2 got {dispatched:.0f} calls of the split in {WATCH_S:g} s"
    yield Finding(holds=dispatched <= 0, told=told)
    answered, faults = after["answered"] - before["answered"], after["faults"] - before["faults"]
    if answered:
        told = f"V1 answered {answered:.0f} calls in {WATCH_S:g} s, {faults:.0f} with faults of its own"
        yield Finding(holds=faults == 0, told=told)
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


def _seen(service: Service) -> dict[str, float]:
    """The split's decisions for V2, and V1's answers and faults, as the service counts them."""
    seen = {"dispatched": 0.0, "answered": 0.0, "faults": 0.0}
    for family in text_string_to_metric_families(service.answer(pools.metrics()).value):
        for sample in family.samples:
            labels = sample.labels
            if sample.name == "poolshift_routing_decisions_total":
                if (labels["pool_version"], labels["reason"]) == ("v2", "split"):
                    seen["dispatched"] += sample.value
            elif sample.name == "poolshift_requests_total" and labels["pool_version"] == "v1":
                seen["answered"] += sample.value
                if labels["outcome"] in _VERSION_FAULTS:
                    seen["faults"] += sample.value
    return seen
