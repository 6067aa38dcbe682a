"""A generator of traces: organic calls during a ramp, on a service that has its troubles."""

import json
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

RAMP = ((0.01, 2_000), (0.05, 5_000), (0.10, 10_000), (0.25, 20_000), (0.50, 40_000))
"""Canary probabilities, and the calls at each."""


class Call(NamedTuple):
    """One call, as a line of a trace has it."""

    t: float
    w: float
    arm: str
    key: str | None
    program: str
    outcome: str
    ms: float
    is_cold: bool = False

    def as_json(self) -> str:
        """The line of the trace."""
        line = self._asdict()
        if not line.pop("is_cold"):
            return json.dumps(line)
        return json.dumps({**line, "cold": True})


@dataclass(frozen=True)
class Scenario:
    """A service, and a V2 that is worse by the factors whose names begin with `v2_`. All rates are per call."""

    name: str
    per_s: float = 50.0
    ramp: tuple[tuple[float, int], ...] = RAMP
    engine: float = 0.005
    program: float = 0.001
    upstream: float = 0.0005
    programs: int = 50
    keyed: float = 0.1
    """Share of calls from sessions."""
    session_calls: float = 20.0
    sessions: int = 200
    poison_keys: float = 0.0
    """Share of sessions whose calls all fail, on both versions."""
    slow_keys: float = 0.0
    """Share of sessions that are ten times slower, on both versions."""
    poison_program: bool = False
    """One program fails on both versions."""
    drift: float = 1.0
    """Fault rates rise by this factor over the trace, on both versions."""
    burst: float = 1.0
    """Fault rates are higher by this factor in 20 s of each 200 s, on both versions."""
    incidents_per_s: float = 0.0
    """Crashes of one version's worker that fail all of its calls within 80 ms."""
    sigma: float = 1.0
    diurnal: float = 1.0
    """Latency swings by this factor, on both versions."""
    unlike: float = 1.0
    """The slowest program takes this many times the fastest one's time, on both versions."""
    cold: bool = False
    """The first 20 calls of each of 20 workers of V2 are five times slower, and marked."""
    misrouted: float = 0.0
    """Share of V2's calls that go to V1."""
    v2_engine: float = 1.0
    v2_program: float = 1.0
    v2_upstream: float = 1.0
    v2_only: float = 0.0
    """Rate of a fault that V1 does not have."""
    v2_latency: float = 1.0
    v2_tail: float = 0.0
    """Share of V2's calls that are slower by `v2_tail_factor`."""
    v2_tail_factor: float = 20.0
    v2_one_program: bool = False
    """V2 is slower in one program alone; `programs` tells how diluted that is."""
    v2_broken_program: bool = False
    v2_from: float = 0.0
    """V2 is worse only from this canary probability on."""
    until: str = "rollback"
    """The verdict that ends the ramp, beside a rollback."""
    jitter: float = field(default=0.2, compare=False)
    """Every rate differs from trace to trace by up to this share, for both versions alike."""


class _Session:
    """A sticky key: its coin decides its version."""

    def __init__(self, rng: random.Random, scenario: Scenario, number: int) -> None:
        self.key = f"s{number}"
        self.coin = rng.random()
        self.is_poison = rng.random() < scenario.poison_keys
        self.is_slow = rng.random() < scenario.slow_keys


def trace(scenario: Scenario, seed: int) -> Iterator[Call]:
    """Yields the calls of one ramp."""
    return _Service(scenario, seed).calls()


class _Service:
    """The state of the service while the trace goes on."""

    def __init__(self, scenario: Scenario, seed: int) -> None:
        self.scenario = scenario
        self.rng = random.Random(f"{scenario.name} {seed}")  # noqa: S311 - a simulation
        self.t = 0.0
        self.n = 0
        self.total = sum(calls for _, calls in scenario.ramp)
        self.level = 1 + scenario.jitter * (2 * self.rng.random() - 1)
        self.phase = self.rng.random()
        self.median_ms = 20 * (1 + self.rng.random())
        self.opened = 0
        self.sessions = [self._session() for _ in range(scenario.sessions)]
        self.incident: tuple[float, str] = (-1.0, "v1")
        self.v2_calls = 0

    def calls(self) -> Iterator[Call]:
        for w, calls in self.scenario.ramp:
            for _ in range(calls):
                yield self._call(w)

    def _session(self) -> _Session:
        self.opened += 1
        return _Session(self.rng, self.scenario, self.opened)

    def _call(self, w: float) -> Call:
        scenario, rng = self.scenario, self.rng
        self.t += rng.expovariate(scenario.per_s)
        self.n += 1
        session = self._caller()
        is_v2 = (session.coin if session else rng.random()) < w
        if is_v2 and scenario.misrouted and rng.random() < scenario.misrouted:
            is_v2 = False
        arm = "v2" if is_v2 else "v1"
        self.v2_calls += is_v2
        is_worse = is_v2 and w >= scenario.v2_from
        program = rng.randrange(scenario.programs)
        outcome = self._outcome(arm, program, session, is_worse=is_worse)
        is_cold = scenario.cold and is_v2 and self.v2_calls <= 400
        is_slower = is_worse and (program == 0 or not scenario.v2_one_program)
        ms = self._ms(session, is_worse=is_slower) * (5 if is_cold else 1)
        ms *= math.pow(scenario.unlike, program / max(scenario.programs - 1, 1))
        return Call(self.t, w, arm, session.key if session else None, f"p{program}", outcome, ms, is_cold)

    def _caller(self) -> _Session | None:
        if self.rng.random() >= self.scenario.keyed:
            return None
        place = self.rng.randrange(len(self.sessions))
        session = self.sessions[place]
        if self.rng.random() < 1 / self.scenario.session_calls:
            self.sessions[place] = self._session()
        return session

    def _outcome(self, arm: str, program: int, session: _Session | None, *, is_worse: bool) -> str:
        scenario, rng = self.scenario, self.rng
        if self._is_in_incident(arm) or (session is not None and session.is_poison):
            return "worker_crashed"
        if (scenario.poison_program and program == 1) or (is_worse and scenario.v2_broken_program and program == 2):
            return "program_error"
        level = self.level * self._fault_level()
        u = rng.random()
        for code, rate, factor in (
            (
                rng.choice(("worker_crashed", "worker_crashed", "execution_timeout")),
                scenario.engine,
                scenario.v2_engine,
            ),
            (rng.choice(("program_error", "invalid_outputs")), scenario.program, scenario.v2_program),
            ("lm_error", scenario.upstream, scenario.v2_upstream),
        ):
            u -= level * rate * (factor if is_worse else 1)
            if u < 0:
                return code
        if is_worse and u < level * scenario.v2_only:
            return "internal_error"
        return "ok"

    def _fault_level(self) -> float:
        scenario = self.scenario
        level = math.pow(scenario.drift, self.n / self.total)
        return level * scenario.burst if scenario.burst > 1 and self.t % 200 < 20 else level

    def _is_in_incident(self, arm: str) -> bool:
        scenario, rng = self.scenario, self.rng
        if not scenario.incidents_per_s:
            return False
        until, hit = self.incident
        if self.t < until:
            return arm == hit
        if rng.random() < scenario.incidents_per_s / scenario.per_s:
            self.incident = (self.t + 0.08, arm)
            return True
        return False

    def _ms(self, session: _Session | None, *, is_worse: bool) -> float:
        scenario, rng = self.scenario, self.rng
        ms = self.median_ms * rng.lognormvariate(0, scenario.sigma)
        if scenario.diurnal > 1:
            ms *= math.pow(scenario.diurnal, math.sin(2 * math.pi * (self.n / self.total * 2 + self.phase)))
        if session is not None and session.is_slow:
            ms *= 10
        if is_worse:
            ms *= scenario.v2_latency
            if rng.random() < scenario.v2_tail:
                ms *= scenario.v2_tail_factor
        return float(round(ms, 3))
