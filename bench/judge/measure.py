"""Ramps under a policy: calls until the first verdict of each kind."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from analysis.guardrails import Config
from analysis.judge import Judge
from bench.judge.traces import Call, Scenario, trace

Policy = Callable[[Iterable[Call], Scenario], dict[str, int]]


@dataclass(frozen=True)
class Found:
    """One ramp's result: the number of the call at which each verdict came first."""

    seed: int
    first: dict[str, int]


def judged(calls: Iterable[Call], scenario: Scenario, config: Config | None = None) -> dict[str, int]:
    """Returns the first call of each verdict of the judge; a rollback, or the scenario's own, ends the ramp."""
    steps = tuple(w for w, _ in scenario.ramp)
    judge = Judge(config or Config(steps=steps, programs=scenario.programs))
    keys: dict[str | None, int | None] = {None: None}
    first: dict[str, int] = {}
    for number, call in enumerate(calls, 1):
        if call.key not in keys:
            keys[call.key] = hash_of(len(keys))
        key = keys[call.key]
        judge.assigned(call.t, call.w, call.arm, key)
        event = judge.ended(call.t, call.w, call.arm, key, call.program, call.outcome, call.ms, is_cold=call.is_cold)
        if event is not None or judge.is_due(call.t):
            action = judge.look(call.t).action.value
            if action not in first:
                first[action] = number
                if action in ("rollback", scenario.until):
                    break
    return first


def hash_of(number: int) -> int:
    """A 64-bit hash of a key's number (splitmix64)."""
    mixed = (number * 0x9E3779B97F4A7C15) & (2**64 - 1)
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
    return mixed ^ (mixed >> 31)


def ramps(scenario: Scenario, seeds: Iterable[int], policy: Policy = judged) -> list[Found]:
    """Runs a policy on fresh traces of a scenario."""
    return [Found(seed, policy(trace(scenario, seed), scenario)) for seed in seeds]


def median_calls(found: list[Found], verdict: str) -> float:
    """Returns the median of the calls until a verdict; infinite if most ramps never come to it."""
    calls = sorted(one.first.get(verdict, float("inf")) for one in found)
    middle = len(calls) // 2
    return calls[middle] if len(calls) % 2 else (calls[middle - 1] + calls[middle]) / 2


def share(found: list[Found], verdict: str) -> float:
    """Returns the share of ramps that came to a verdict."""
    return sum(verdict in one.first for one in found) / len(found)
