"""Verdicts: a table of what is said when."""

import random
from dataclasses import replace

import pytest

from analysis.guardrails import Action, Config, InvalidConfig
from analysis.judge import Judge
from analysis.planning.power import power
from analysis.planning.promotion import promotion_time
from analysis.planning.replay import Replay
from analysis.planning.stages import Stage
from analysis.verdict import Detectable, Evidence, Row, Say, Tally
from tests.unit.analysis.calls import Told, random_calls, tell, told_all


def crash(judge: Judge, outcome: str, count: int, arm: str = "v2", w: float = 0.1) -> None:
    for number in range(count):
        judge.assigned(number, w, arm, None)
        judge.ended(number, w, arm, None, "p", outcome, 5.0)


@pytest.mark.parametrize(
    ("outcome", "arm", "action", "guardrail"),
    [
        ("worker_crashed", "v2", "rollback", "engine"),
        ("program_error", "v2", "rollback", "program"),
        ("lm_error", "v2", "pause", "upstream"),
        ("pool_overloaded", "v2", "pause", "capacity"),
        ("worker_crashed", "v1", "continue", None),
        ("invalid_request", "v2", "continue", None),
    ],
)
def test_verdict_of_a_dozen_faults(outcome: str, arm: str, action: str, guardrail: str | None) -> None:
    judge = Judge(Config(pause_alpha=0.001))
    crash(judge, "ok", 90, "v1")
    crash(judge, outcome, 12, arm)
    if arm == "v1":
        crash(judge, "ok", 12, "v2")
    verdict = judge.look(100.0)
    assert (verdict.action, verdict.guardrail) == (action, guardrail)
    assert verdict.since == (100.0 if guardrail else verdict.since)


def test_a_judge_that_knows_nothing_says_continue() -> None:
    assert Judge().look(5.0).action is Say.CONTINUE
    assert all(row.log_e == 0 for row in Judge().analysis())


def test_a_rollback_is_final_until_the_ramp_begins_again() -> None:
    judge = Judge()
    crash(judge, "worker_crashed", 12)
    assert judge.look(20.0).action is Say.ROLLBACK
    crash(judge, "worker_crashed", 500, "v1")
    assert judge.look(600.0).action is Say.ROLLBACK
    judge.restart(700.0)
    assert judge.look(700.0).action is Say.CONTINUE


def test_a_pause_lasts_until_a_person_acknowledges_it() -> None:
    judge = Judge()
    crash(judge, "lm_error", 12)
    judge.look(20.0)
    assert judge.look(21.0) == judge.verdict
    assert judge.verdict.since == 20.0
    assert judge.verdict.action is Say.PAUSE
    judge.acknowledge(judge.verdict.guardrail or "")
    judge.acknowledge("srm")
    assert judge.look(22.0).action is Say.CONTINUE


def test_promotion_comes_on_the_last_step_alone() -> None:
    for steps, expected in (((0.5,), Say.PROMOTE), ((0.5, 0.9), Say.CONTINUE), ((), Say.CONTINUE)):
        judge = Judge(Config(steps=steps))
        for number, one in enumerate(random_calls(5, 30_000, rate=0.001)):
            tell(judge, one._replace(w=0.5, arm="v2" if number % 2 else "v1", key=None))
        assert judge.look(1e6).action is expected


def test_shares_over_1_are_refused() -> None:
    with pytest.raises(InvalidConfig, match="over 1"):
        Config().with_actions({"upstream": (Action.ROLLBACK, 0.1)})
    with pytest.raises(InvalidConfig, match="no guardrail"):
        Config().with_actions({"upstraem": (Action.ROLLBACK, 0.1)})
    shared = Config().with_actions({"engine": (Action.ROLLBACK, 0.5), "upstream": (Action.ROLLBACK, 0.15)})
    judge = Judge(shared)
    crash(judge, "lm_error", 12)
    assert judge.look(20.0).action is Say.ROLLBACK


def test_another_e_process_fits_in() -> None:
    judge = told_all(list(random_calls(1, 500, rate=0)))
    nothing = Tally(0, 0)
    row = Row("quality", "pause", 9.0, 6.9, nothing, nothing, (0.0, None), "all", Detectable(2.0, None, None))
    judge.feed(Evidence("quality", 9.0, 6.9), row)
    verdict = judge.look(1000.0)
    assert (verdict.action, verdict.guardrail) == (Say.PAUSE, "quality")
    assert row in judge.analysis()


def no_worse_v2(*, waits: bool) -> Judge:
    """A judge on its last step, with evidence for all guardrails that are no e-process of another part."""
    config = replace(Config(), steps=(0.5,))
    judge = Judge(config.with_promotion(["quality"]) if waits else config)
    rng = random.Random(5)
    for one in random_calls(3, 20_000, rate=0.0):
        tell(judge, one._replace(w=0.5, arm=rng.choice(("v1", "v2"))))
    return judge


def test_promotion_waits_for_quality_if_the_plan_asks_for_it() -> None:
    """Silence is no evidence, and neither is a log e-value below the threshold of promotion."""
    assert no_worse_v2(waits=False).look(1.0).action is Say.PROMOTE
    judge = no_worse_v2(waits=True)
    nothing = Tally(0, 0)
    row = Row("quality", "pause", 0.0, 6.9, nothing, nothing, (0.0, None), "all", Detectable(2.0, None, None))
    assert judge.look(1.0).action is Say.CONTINUE
    assert [one.guardrail for one in judge.lacking()] == ["quality"]
    judge.feed(Evidence("quality", 0.0, 6.9), row, Evidence("quality", 2.9, 3.0))
    assert judge.look(2.0).action is Say.CONTINUE
    judge.feed(Evidence("quality", 0.0, 6.9), row, Evidence("quality", 3.1, 3.0))
    assert judge.lacking() == ()
    assert judge.look(3.0).action is Say.PROMOTE
    with pytest.raises(InvalidConfig, match="quality alone"):
        Config().with_promotion(["shadow"])


def test_rows_tell_counts_interval_and_what_is_detectable() -> None:
    judge = told_all(list(random_calls(6, 20_000, rate=0.02)))
    judge.look(0.0)
    judge.look(2000.0)
    for row in judge.analysis():
        low, high = row.ratio
        if row.name in ("engine", "latency", "tail", "srm"):
            assert low <= 1 <= (high or 1e9), row.name
            assert row.detectable.calls, row.name
        if row.name in ("shadow", "capacity_unfed"):
            assert row.detectable.calls is None


def test_replay_says_what_the_live_judge_says() -> None:
    told = [with_crashes(one) for one in random_calls(7, 6000)]
    replay = Replay({one.w for one in told}, 5, Config())
    changes = list(replay.changes([Recorded(one) for one in told]))
    judge = Judge(replace(Config(), steps=(0.05, 0.25, 0.5), programs=5))
    live = []
    said = judge.verdict.action, judge.verdict.guardrail
    for number, one in enumerate(told, 1):
        if tell(judge, one) or judge.is_due(one.t):
            verdict = judge.look(one.t)
            if (verdict.action, verdict.guardrail) != said:
                said = verdict.action, verdict.guardrail
                live.append((number, verdict))
    assert [(one.call, one.verdict) for one in changes] == live
    assert live
    assert replay.end().verdict == judge.verdict


def with_crashes(one: Told) -> Told:
    """The call on a V2 that crashes every 20th time."""
    crashes = one.arm == "v2" and int(one.t * 10) % 20 == 0
    return one._replace(key=None, outcome="worker_crashed" if crashes else one.outcome)


class Recorded:
    """A call of a trace."""

    def __init__(self, told: Told) -> None:
        self.t, self.w, self.arm, self.key = told.t, told.w, told.arm, None
        self.program, self.outcome, self.ms = told.program, told.outcome, told.ms
        self.cold = False
        self.attempts: tuple[str, ...] = ()
        self.cost = 0.0


def test_power_has_a_fixed_seed() -> None:
    ramp = (Stage(0.1, 2000), Stage(0.5, 10_000))
    one = power(50, 0.02, 5, ramp, "engine")
    assert one == power(50, 0.02, 5, ramp, "engine")
    assert one.median_calls is not None
    assert one.share > 0.9
    assert power(50, 0, 5, ramp, "engine").median_calls is None
    with pytest.raises(ValueError, match="does not judge faults"):
        power(50, 0.01, 2, ramp, "latency")
    with pytest.raises(ValueError, match="rising"):
        power(50, 0.01, 2, (Stage(0.5, 10), Stage(0.1, 10)), "engine")


def test_the_time_to_promotion_has_a_fixed_seed() -> None:
    """The real judge promotes a V2 that is as good as V1: sooner at 50 % than at 5 %, sooner without faults."""
    ramp = (Stage(0.1, 2000), Stage(0.5, 10_000))
    one = promotion_time(50, 0.005, ramp, "engine")
    assert one == promotion_time(50, 0.005, ramp, "engine")
    assert one.promoted == one.ramps
    assert one.last_step_calls is not None
    assert one.calls == 2000 + one.last_step_calls
    without_faults = promotion_time(50, 0, ramp, "engine").last_step_calls
    at_a_twentieth = promotion_time(50, 0.005, (Stage(0.05, 100),), "engine").last_step_calls
    assert without_faults is not None
    assert at_a_twentieth is not None
    assert without_faults < one.last_step_calls < at_a_twentieth
    with pytest.raises(ValueError, match="does not judge faults"):
        promotion_time(50, 0.01, ramp, "latency")


def test_cold_calls_of_v2_do_not_look_like_slowness() -> None:
    """Leaving them out would leave out V2's calls more often than V1's."""
    judge = Judge(Config(steps=(0.05, 0.25, 0.5)))
    for one in random_calls(8, 6000, rate=0):
        judge.assigned(one.t, one.w, one.arm, one.key)
        judge.ended(one.t, one.w, one.arm, one.key, one.program, "ok", one.ms, is_cold=one.arm == "v2" and one.t < 400)
        if judge.is_due(one.t):
            assert judge.look(one.t).action in (Say.CONTINUE, Say.PROMOTE)
