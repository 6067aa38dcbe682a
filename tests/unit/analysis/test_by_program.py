"""Times by program: each program's own p99 and ranks, and a promotion that waits for the busy ones."""

import random
from collections.abc import Callable, Iterator

import pytest

from analysis.guardrails import OTHER_PROGRAMS, Config
from analysis.judge import Judge
from analysis.latency_bins import FINE_BINS
from analysis.own_times import AT_3_P99, AT_P99, WARM_UP, OwnTimes
from analysis.verdict import Say
from tests.unit.analysis.calls import Told, tell

Times = Callable[[random.Random, str, str], float]
"""The milliseconds of a call of a program on a version."""


def calls_of(shares: dict[str, float], times: Times, count: int, seed: int = 1) -> Iterator[Told]:
    """Yields calls of a step at 50 %."""
    rng = random.Random(seed)
    for number in range(count):
        arm = rng.choice(("v1", "v2"))
        program = rng.choices(tuple(shares), tuple(shares.values()))[0]
        yield Told(number / 10, 0.5, arm, None, program, "ok", times(rng, program, arm))


def judged(shares: dict[str, float], times: Times, count: int, config: Config | None = None) -> Judge:
    judge = Judge(config or Config(steps=(0.5,)))
    for one in calls_of(shares, times, count):
        tell(judge, one)
        if judge.is_due(one.t) and judge.look(one.t).action is not Say.CONTINUE:
            break
    assert judge.malformed == 0
    return judge


def alike(rng: random.Random, program: str, arm: str) -> float:
    """Times of a program that takes a hundred times the other's time, on both versions."""
    return rng.lognormvariate(7 if program == "slow" else 2.4, 0.6)


def worse_tail(rng: random.Random, program: str, arm: str) -> float:
    """The fast program has six times V1's p99 on V2, which is fast beside the slow one."""
    ms = alike(rng, program, arm)
    return ms * 24 if program == "fast" and arm == "v2" and rng.random() < 0.02 else ms


def test_ranks_are_those_of_v1_alone() -> None:
    own = OwnTimes("p")
    histogram = {fine: [2, 1000] for fine in range(100, 200)}
    own.freeze([histogram])
    assert own.p99 == 199
    assert [own.rank(fine) for fine in (0, 100, 150, 195, 198, 199, 230, FINE_BINS)] == [
        0,
        0,
        2,
        5,
        6,
        AT_P99,
        AT_3_P99,
        AT_3_P99,
    ]


def test_a_program_whose_calls_take_the_same_time_has_middle_ranks() -> None:
    """All calls in one bin are neither fast nor slow; a slower one is over p99."""
    own = OwnTimes("p")
    own.freeze([{50: [WARM_UP, 0]}])
    assert (own.rank(49), own.rank(50), own.rank(51)) == (0, 2, AT_P99)


def test_too_few_calls_are_no_reference_and_cost_no_search_each() -> None:
    own = OwnTimes("p")
    due = 0
    for _ in range(3 * WARM_UP):
        if own.is_due(7):
            due += 1
            own.freeze([{7: [1, 0]}])
    assert own.p99 < 0
    assert due == 3
    assert own.drawn(12345) == 7


def test_a_tail_is_found_in_a_program_that_is_fast_beside_the_other() -> None:
    judge = judged({"fast": 1, "slow": 1}, worse_tail, 20_000)
    assert judge.verdict.action is Say.ROLLBACK
    assert judge.verdict.guardrail == "tail"
    assert not any(program == "slow" and pair[1] > 3 * pair[0] for (*_, program), pair in judge.counters.events.items())


def test_programs_of_unlike_speed_are_promoted_if_v2_is_as_fast() -> None:
    judge = judged({"fast": 1, "slow": 1}, alike, 20_000)
    assert judge.verdict.action is Say.PROMOTE
    assert judge.verdict.not_shown == ()


def test_a_promotion_waits_for_a_busy_program_and_names_a_rare_one() -> None:
    """A tenth of the calls is enough to be waited for, a hundredth is not."""
    shares = {"main": 0.89, "busy": 0.1, "rare": 0.01}
    judge = Judge(Config(steps=(0.5,)))
    pooled_first = None
    for number, one in enumerate(calls_of(shares, alike, 30_000)):
        tell(judge, one)
        if judge.is_due(one.t) and number % 500 < 32:
            lacking = {one.stratum for one in judge.lacking()}
            if lacking and "all" not in lacking:
                pooled_first = lacking
            if judge.look(one.t).action is Say.PROMOTE:
                break
    assert pooled_first is not None
    assert pooled_first <= {"program=busy", "program=main"}
    assert judge.verdict.action is Say.PROMOTE
    assert judge.verdict.not_shown == ("rare",)
    rows = {row.name: row for row in judge.analysis()}
    assert rows["tail"].is_shown
    assert rows["tail"].not_shown == ("rare",)
    assert rows["engine"].not_shown == ()


def test_the_time_until_a_busy_program_is_shown_is_foreseen() -> None:
    """The row's estimate covers the program, which takes longer than all calls together."""
    judge = judged({"main": 0.9, "busy": 0.1}, alike, 3500)
    alone = judged({"main": 1.0}, alike, 3500)
    until, sooner = (next(row for row in one.analysis() if row.name == "latency").until_shown for one in (judge, alone))
    assert until is not None
    assert until.calls > (0 if sooner is None else sooner.calls)


@pytest.mark.parametrize("programs", [1, 3])
def test_programs_beyond_the_strata_share_one(programs: int) -> None:
    shares = {f"p{number}": 1.0 for number in range(8)}
    judge = judged(shares, alike, 6000, Config(steps=(0.5, 0.9), programs=programs))
    names = {program for _, program in judge.counters.times}
    assert len(names) == programs + 1
    assert OTHER_PROGRAMS in names


def test_times_of_programs_are_kept_for_two_steps() -> None:
    judge = Judge()
    for step, w in enumerate((0.1, 0.2, 0.3, 0.4)):
        for one in calls_of({"p": 1.0}, alike, 300, seed=step):
            tell(judge, one._replace(w=w))
        assert {at for at, _ in judge.counters.times} == {max(step - 1, 0), step}
