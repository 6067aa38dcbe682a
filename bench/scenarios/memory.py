"""Measures the server's memory before and after many executions."""

from dataclasses import replace

from bench import load
from bench.arena import V2, Arena
from bench.outcome import Figure, Outcome, at_most
from bench.servers import ContenderFailed, Server
from bench.workloads import TRIVIAL

SETTLED_AFTER = 50_000
FULL_LENGTH = 1_000_000
_SLOWEST_PER_S = 500


def run(arena: Arena) -> Outcome:
    """The server's resident memory after some executions and after many."""
    plan = arena.plan
    early = min(SETTLED_AFTER, plan.executions // 2)
    with arena.running([arena.v2()], TRIVIAL, plan.workers) as servers:
        server = servers[V2]
        _execute(arena, server, early)
        rss_early = server.rss_bytes()
        _execute(arena, server, plan.executions - early)
        rss_late = server.rss_bytes()
    grown = rss_late / rss_early
    goal = at_most("server RSS after 1,000,000 executions against after 50,000", 1.02, grown, contender=V2)
    is_full = plan.executions >= FULL_LENGTH
    return Outcome(
        scenario="memory",
        conditions=f"trivial program, V2, {plan.executions:,} executions",
        figures=[
            Figure(f"server RSS after {early:,}", rss_early / 2**20, "MiB"),
            Figure(f"server RSS after {plan.executions:,}", rss_late / 2**20, "MiB"),
        ],
        goals=[goal if is_full else replace(goal, is_met=None)],
        notes=[] if is_full else [f"The goal is about {FULL_LENGTH:,} executions: --executions {FULL_LENGTH}."],
    )


def _execute(arena: Arena, server: Server, executions: int) -> None:
    failed = load.count(
        server,
        arena.body(TRIVIAL),
        requests=executions,
        connections=arena.plan.connections,
        deadline_s=executions / _SLOWEST_PER_S,
    )
    arena.say(f"  {executions:,} executions: {server.rss_bytes() / 2**20:.1f} MiB")
    if failed:
        raise ContenderFailed(f"{failed} of {executions} executions failed")
