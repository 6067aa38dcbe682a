"""The exit code of `poolshift shadow run` on simulated programs: noise of V1 is no difference, and a cheat is one."""

import random
from collections.abc import Callable
from typing import Any

import pytest

from cli.rollout.shadow import Call, Run
from tests.judge.test_goals import most_by_chance

pytestmark = pytest.mark.judge

RUNS = 1000
INPUTS = 60

Program = Callable[[int, str], Any]
"""The answer to an input on a version."""


def exit_code(program: Program) -> int:
    """Runs as the command does: each line once, and then what is suspected again."""

    def compare(call: Call) -> dict[str, Any]:
        n = call.inputs["n"]
        v1, v2 = program(n, "v1"), program(n, "v2")
        verdict = "same"
        if v1 != v2:
            third = program(n, "v1")
            verdict = "v2" if third == v1 else "v1" if third == v2 else "none"
        return {"fields": {"$error": "same", "result": verdict}, "v1_error": None, "v2_error": None, "example": None}

    run = Run()
    for n in range(INPUTS):
        call = Call("p", {"n": n}, None)
        run.take(call, compare(call))
    run.confirm(compare)
    return int(run.differs)


@pytest.mark.parametrize("noise", [0.01, 0.1, 0.5])
def test_noise_of_both_versions_is_no_difference(noise: float) -> None:
    """At most 1 % of runs without a difference end with 1, although a suspicion is looked into."""
    rng = random.Random(f"noise {noise}")

    def noisy(n: int, version: str) -> Any:
        return rng.random() if rng.random() < noise else n

    assert sum(exit_code(noisy) for _ in range(RUNS)) <= most_by_chance(RUNS, 0.01)


def test_one_wrong_answer_is_a_difference_amid_noise() -> None:
    """V2 is wrong for a single input, and both versions are noisy in 1 % of their runs: most runs end with 1."""
    rng = random.Random("wrong")

    def wrong(n: int, version: str) -> Any:
        return rng.random() if rng.random() < 0.01 else n + (version == "v2" and n == 7)

    assert sum(exit_code(wrong) for _ in range(200)) >= 180
