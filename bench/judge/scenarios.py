"""The scenarios: healthy services with their troubles, and regressions, each with a goal in calls."""

from bench.judge.traces import Scenario

HEALTHY = (
    Scenario("healthy"),
    Scenario("healthy, half of the calls from sessions", keyed=0.5),
    Scenario("healthy, no sessions", keyed=0),
    Scenario("healthy, sessions only", keyed=1.0),
    Scenario("fault rates drift by 10", drift=10),
    Scenario("bursts of faults", burst=20),
    Scenario("poison keys", poison_keys=0.03, keyed=1.0),
    Scenario("poison program", poison_program=True),
    Scenario("slow keys", slow_keys=0.05, keyed=1.0),
    Scenario("crashes that fail many calls", incidents_per_s=0.1, per_s=200),
    Scenario("cold workers", cold=True),
    Scenario("latency swings by 3", diurnal=3),
    Scenario("low traffic", per_s=0.2),
    Scenario("frequent faults", engine=0.05, program=0.02),
    Scenario("few sessions, many calls", keyed=1.0, sessions=60, session_calls=400),
    Scenario("narrow latency", sigma=0.1),
    Scenario("heavy-tailed latency", sigma=1.8),
    Scenario("programs of unlike speed", unlike=30),
)


def _slow_tail(name: str, programs: int) -> Scenario:
    """One of so many programs has six times V1's p99 on V2."""
    return Scenario(name, programs=programs, v2_one_program=True, v2_tail=0.02, v2_tail_factor=24, sigma=0.6)


REGRESSIONS: tuple[tuple[Scenario, str, int], ...] = (
    (Scenario("engine faults x2", v2_engine=2), "rollback", 30_000),
    (Scenario("engine faults x5", v2_engine=5), "rollback", 8_500),
    (Scenario("engine faults x20", v2_engine=20), "rollback", 2_600),
    (Scenario("faults on V2 only", v2_only=0.005), "rollback", 17_000),
    (Scenario("latency x1.25", v2_latency=1.25), "rollback", 8_500),
    (Scenario("latency x1.5", v2_latency=1.5), "rollback", 4_200),
    (Scenario("latency x2", v2_latency=2), "rollback", 2_700),
    (Scenario("p99 x5", v2_tail=0.02, sigma=0.6), "rollback", 7_000),
    (Scenario("one program of 50 broken", v2_broken_program=True), "rollback", 6_500),
    (Scenario("the same beside a poison program", v2_broken_program=True, poison_program=True), "rollback", 7_000),
    (Scenario("x5 from 25 % on", v2_engine=5, v2_from=0.25), "rollback", 20_000),
    (Scenario("upstream faults x10", v2_upstream=10, until="pause"), "pause", 30_000),
    (_slow_tail("p99 x6 of one program, diluted 1:1", 2), "rollback", 14_000),
    (_slow_tail("p99 x6 of one program, diluted 1:10", 11), "rollback", 45_000),
    (Scenario("10 % misrouted", misrouted=0.10, until="pause"), "pause", 22_000),
)
"""Scenario, the verdict that is right, and the goal: calls until then, as a median."""

ALL = {one.name: one for one in (*HEALTHY, *(scenario for scenario, _, _ in REGRESSIONS))}
