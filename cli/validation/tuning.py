"""Recommends the size of a pool from its figures, by the queueing formulas for several servers.

The wait of the M/M/c queue is Erlang's (A. K. Erlang, 1917; L. Kleinrock, Queueing Systems I, 1975, section 3.5). That
of M/G/c is approximated by Lee and Longton's rule: the wait of M/M/c times (1 + C²) ÷ 2, where C² is the squared
coefficient of variation of the service times (A. M. Lee and P. A. Longton, Operational Research Quarterly 10, 1959).
"""

import math
from typing import Any, Final

import httpx

TARGET_WAIT: Final = 0.1
"""The mean wait that is accepted, as a share of the mean service time."""
MAX_WORKERS: Final = 1024
MIN_CALLS: Final = 100
MIN_QUEUE: Final = 16
SERIAL: Final = "session_pool"
"""The engine whose workers take turns: its queue is that of one worker."""


def erlang_c(workers: int, offered: float) -> float:
    """The probability that a call has to wait, for `offered` Erlangs (rate × service time) on so many workers.

    Computed by the recursion of Erlang's B formula, which overflows for no size.
    """
    if offered >= workers:
        return 1.0
    blocked = 1.0
    for number in range(1, workers + 1):
        blocked = offered * blocked / (number + offered * blocked)
    busy = offered / workers
    return blocked / (1 - busy + busy * blocked)


def wait_s(rate: float, service_s: float, variation: float, workers: int) -> float:
    """The mean wait in seconds; infinite if the calls are more than the workers can serve."""
    offered = rate * service_s
    if offered >= workers:
        return math.inf
    mm = erlang_c(workers, offered) * service_s / (workers - offered)
    return mm * (1 + variation) / 2


def workers_for(rate: float, service_s: float, variation: float) -> int:
    """The fewest workers with a mean wait of at most `TARGET_WAIT` of the service time."""
    fewest = max(1, math.ceil(rate * service_s))
    for workers in range(fewest, MAX_WORKERS):
        if wait_s(rate, service_s, variation, workers) <= TARGET_WAIT * service_s:
            return workers
    return MAX_WORKERS


def recommend(client: httpx.Client) -> list[dict[str, Any]]:
    """Advice for each pool: what is, what the formulas predict for it, what they recommend, and what is not known."""
    shown = client.get("/migration").json()
    times = {one["pool_version"]: one for one in shown["service_times"]}
    return [_advice(pool, times.get(pool["pool_version"]), shown["usage"]) for pool in client.get("/pools").json()]


def _advice(pool: dict[str, Any], times: dict[str, Any] | None, usage: list[dict[str, Any]]) -> dict[str, Any]:
    version, calls = pool["pool_version"], 0 if times is None else times["calls"]
    peaks: dict[str, int] = {}
    for one in usage:
        peaks[one["day"]] = peaks.get(one["day"], 0) + one["peak_per_minute"]
    rate = max(peaks.values(), default=0) / 60
    if times is None or calls < MIN_CALLS or not rate:
        few = f"{calls} calls of {version} in the last days, a peak of {rate:.2f} calls a second"
        return {"pool": version, "unknown": f"{few}: too few to recommend anything"}
    service_s, variation = times["mean_s"], times["variation"]
    size = workers_for(rate, service_s, variation)
    settings = f"{version.upper()}_POOL_SIZE={size}"
    now = f"{_workers(pool['size'])}, {_prediction(rate, service_s, variation, pool['size'])}"
    if pool["engine"] == SERIAL:
        now = f"{_workers(pool['size'])} of which one runs at a time, {_prediction(rate, service_s, variation, 1)}"
        settings = settings if size == 1 else f"{version.upper()}_ENGINE=session_pool_v2 {settings}"
    return {
        "pool": version,
        "peak": f"{rate:.2f} calls a second, all versions together",
        "service time": f"{1000 * service_s:.2f} ms on the mean of {calls:,} calls, squared variation {variation:.2f}",
        "now": now,
        "observed wait": f"{1000 * times['mean_wait_s']:.2f} ms on the mean",
        "recommended": f"{settings}: {_workers(size)}, {_prediction(rate, service_s, variation, size)}",
        "queue limit": f"QUEUE_LIMIT={max(MIN_QUEUE, 2 * size)}: two calls for each worker, {MIN_QUEUE} at least",
        "timeouts": _timeouts(service_s, times["p99_s"], times["longest_s"]),
        "unknown": "how the peak spreads within a minute",
    }


def _timeouts(mean_s: float, p99_s: float, longest_s: float) -> str:
    """Time to wait for a worker, and to run: a mean hides the program that is called seldom and takes long."""
    checkout_s = max(1, math.ceil(max(20 * mean_s, longest_s)))
    execution_s = max(1, math.ceil(max(3 * p99_s, longest_s)))
    longest = f"the longest call took up to {longest_s:g} s"
    return f"CHECKOUT_TIMEOUT_S={checkout_s}, EXECUTION_TIMEOUT_S at least {execution_s}: {longest}"


def _prediction(rate: float, service_s: float, variation: float, workers: int) -> str:
    wait = wait_s(rate, service_s, variation, workers)
    busy = rate * service_s / workers
    told = "calls pile up" if math.isinf(wait) else f"{1000 * wait:.2f} ms of wait on the mean"
    return f"{100 * min(busy, 1):.0f} % busy, {told}"


def _workers(count: int) -> str:
    return "1 worker" if count == 1 else f"{count} workers"
