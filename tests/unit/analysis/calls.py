"""Calls for the judge's tests."""

import random
from collections.abc import Iterator
from typing import NamedTuple

from hypothesis import strategies as st

from analysis.counters import Counters
from analysis.guardrails import Config
from analysis.judge import Judge

OUTCOMES = (
    "ok",
    "worker_crashed",
    "execution_timeout",
    "program_error",
    "lm_error",
    "pool_overloaded",
    "invalid_request",
)
STEPS = (0.05, 0.25, 0.5)


class Told(NamedTuple):
    """A call as it is told to the judge."""

    t: float
    w: float
    arm: str
    key: int | None
    program: str
    outcome: str
    ms: float


calls = st.lists(
    st.builds(
        Told,
        t=st.floats(0, 100),
        w=st.sampled_from(STEPS),
        arm=st.sampled_from(("v1", "v2")),
        key=st.none() | st.integers(0, 12),
        program=st.sampled_from(("a", "b", "c")),
        outcome=st.sampled_from(OUTCOMES),
        ms=st.floats(0.1, 1000),
    ),
    max_size=80,
).map(lambda told: sorted(told, key=lambda one: one.w))
"""Calls of a ramp that never falls."""


def random_calls(seed: int, count: int, rate: float = 0.05) -> Iterator[Told]:
    """Yields calls of a long ramp."""
    rng = random.Random(seed)
    for number in range(count):
        w = STEPS[number * len(STEPS) // count]
        outcome = "ok" if rng.random() > rate else rng.choice(OUTCOMES[1:])
        key = rng.getrandbits(64) if rng.random() < 0.5 else None
        arm = "v2" if rng.random() < w else "v1"
        yield Told(number / 10, w, arm, key, f"p{rng.randrange(5)}", outcome, rng.lognormvariate(3, 1))


def tell(judge: Judge, told: Told) -> str | None:
    """Tells the judge a call, whole."""
    judge.assigned(told.t, told.w, told.arm, told.key)
    return judge.ended(told.t, told.w, told.arm, told.key, told.program, told.outcome, told.ms)


def told_all(calls: list[Told], config: Config | None = None) -> Judge:
    """A judge that was told these calls."""
    judge = Judge(config)
    for one in calls:
        tell(judge, one)
    assert judge.malformed == 0
    return judge


def counters_of(calls: list[Told]) -> Counters:
    """The counters after these calls."""
    return told_all(calls).counters
