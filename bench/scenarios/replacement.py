"""Measures the time from a worker's SIGKILL until its successor can take a call."""

import os
import signal
import statistics
import time
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from bench.arena import V2, Arena
from bench.outcome import Figure, Outcome, at_most
from bench.servers import ContenderFailed, Server
from bench.workloads import TRIVIAL

DEADLINE_S = 30.0


def run(arena: Arena) -> Outcome:
    """Kills workers, one after another."""
    plan = arena.plan
    with arena.running([arena.v2()], TRIVIAL, plan.workers) as servers:
        server = servers[V2]
        preloaded = _preloaded(server)
        before = _start_durations(server)
        taken_ms = [1000 * _replace(server) for _ in range(plan.replacements)]
        after = _start_durations(server)
    own_ms = 1000 * (after[0] - before[0]) / (after[1] - before[1])
    taken = statistics.median(taken_ms)
    return Outcome(
        scenario="replacement",
        conditions=f"V2, {plan.workers} workers, {plan.replacements} of them killed one after another",
        figures=[
            Figure("from SIGKILL until the successor is idle, median", taken, "ms"),
            Figure("the same, slowest", max(taken_ms), "ms"),
            Figure("of which its start, as the service's own histogram has it, mean", own_ms, "ms"),
        ],
        goals=[at_most("a replacement worker ready", 50, taken, " ms", contender=V2)],
        notes=[f"Loaded in the preloaded process: {preloaded or 'nothing beside the worker itself'}."],
    )


def _replace(server: Server) -> float:
    # One that has worked: a worker that dies before its first call is a failed start, and the pool pauses after it.
    server.check(TRIVIAL)
    victim = next(one["pid"] for one in _pool(server)["workers"] if one["state"] == "idle" and one["executions"])
    began = time.perf_counter()
    os.kill(victim, signal.SIGKILL)
    while True:
        pool = _pool(server)
        seconds = time.perf_counter() - began
        is_gone = victim not in [worker["pid"] for worker in pool["workers"]]
        if is_gone and pool["idle"] == pool["size"]:
            return seconds
        if seconds > DEADLINE_S:
            raise ContenderFailed(f"no worker has taken the place of {victim}: {pool}")


def _pool(server: Server) -> dict[str, Any]:
    pool: dict[str, Any] = server.client.get("/pools/v2").raise_for_status().json()
    return pool


def _start_durations(server: Server) -> tuple[float, float]:
    """The sum in seconds, and the count."""
    totals = {"sum": 0.0, "count": 0.0}
    for family in text_string_to_metric_families(server.client.get("/metrics").text):
        for sample in family.samples:
            name, _, kind = sample.name.rpartition("_")
            if name == "poolshift_worker_start_duration_seconds" and kind in totals:
                totals[kind] += sample.value
    return totals["sum"], totals["count"]


def _preloaded(server: Server) -> str:
    """The modules that the zygote imports."""
    for child in server.process.children():
        command = child.cmdline()
        if "poolshift.worker.zygote" in command:
            return command[-1]
    raise ContenderFailed("the service has no zygote")
