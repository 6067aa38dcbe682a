"""V2's calls and faults while it has all calls: what counts, from when on, and what the rate of now is about."""

import time
from dataclasses import replace

import pytest

from analysis.guardrails import Config
from analysis.relapse import Seen
from pools.calls import Call
from routing.rollout.live_judge import LiveJudge
from routing.rollout.model import Rollout, Source
from routing.rollout.v2_watch import MAX_PROGRAMS, OTHERS, RECENT_S, FaultRate, V2Watch
from routing.versions import Decision, Reason, Version
from tests.support.fake_pools import echo_program
from tests.unit.analysis.calls import Told, tell

HALF = Rollout(1, 5000, None, Source.API, "alice", None)
ALL = replace(HALF, canary_basis_points=10_000)
ORGANIC = Decision(Version.V2, Reason.SPLIT)


def call(program_id: str = "p", session_id: str | None = None) -> Call:
    return Call("e-1", echo_program(program_id), b"{}", 60.0, session_id)


def watch_at_100() -> V2Watch:
    watch = V2Watch(None, has_v1=True)
    watch.rollout_changed(ALL)
    return watch


def test_only_v2s_organic_calls_count() -> None:
    """Forced, synthetic and shadow calls are nobody's; a client's error is a call, and no fault."""
    watch = watch_at_100()
    for code in ("ok", "invalid_inputs", "worker_crashed", "pool_overloaded", "lm_error"):
        watch.ended(ORGANIC, "execute", call(), code)
    watch.ended(Decision(Version.V2, Reason.FORCED), "execute", call(), "worker_crashed")
    watch.ended(Decision(Version.V1, Reason.SPLIT), "execute", call(), "worker_crashed")
    watch.ended(ORGANIC, "synthetic", call(), "worker_crashed")
    assert watch.total() == watch.recent() == FaultRate(5, 2)
    assert str(watch.total()) == "2 of 5 calls (40 %)"


@pytest.mark.parametrize(
    ("pin", "has_v1", "rollout", "is_on"),
    [
        (None, True, HALF, False),
        (None, True, ALL, True),
        (Version.V1, True, ALL, False),
        (Version.V2, True, HALF, True),
        (None, False, HALF, True),
    ],
)
def test_it_watches_while_v2_has_all_calls(pin: Version | None, has_v1: bool, rollout: Rollout, is_on: bool) -> None:
    watch = V2Watch(pin, has_v1=has_v1)
    watch.rollout_changed(rollout)
    assert watch.is_on is is_on


def test_a_rollback_ends_the_count() -> None:
    """V2's next time at 100 % begins with no calls; a revision that changes nothing keeps them."""
    watch = watch_at_100()
    watch.ended(ORGANIC, "execute", call(), "ok")
    watch.rollout_changed(replace(ALL, revision=2))
    assert watch.total().calls == 1
    watch.rollout_changed(replace(ALL, canary_basis_points=0))
    watch.rollout_changed(ALL)
    assert watch.total().calls == 0


def test_the_rate_of_now_forgets() -> None:
    """Calls of over ten minutes ago are no part of it."""
    watch = watch_at_100()
    began = time.monotonic()
    watch.ended(ORGANIC, "execute", call(), "worker_crashed")
    watch.look(began + 20)
    assert watch.recent() == FaultRate(1, 1)
    watch.look(began + 30 + RECENT_S)
    watch.ended(ORGANIC, "execute", call(), "ok")
    assert (watch.recent(), watch.total()) == (FaultRate(1, 0), FaultRate(2, 1))


def test_the_number_of_programs_is_bounded() -> None:
    watch = watch_at_100()
    for number in range(MAX_PROGRAMS + 5):
        watch.ended(ORGANIC, "execute", call(f"p-{number}"), "ok")
    assert watch.counts[OTHERS, "ok"] == 5
    assert watch.total().calls == MAX_PROGRAMS + 5


def test_a_session_and_a_crash_are_one_fault_each_as_evidence() -> None:
    """A broken session with ten faults is one, and so is a crash that fails ten calls; a raising program is ten."""
    watch = watch_at_100()
    for _ in range(10):
        watch.ended(ORGANIC, "execute", call("session", "s"), "program_error")
        watch.ended(ORGANIC, "execute", call("crash"), "worker_crashed")
        watch.ended(ORGANIC, "execute", call("raising"), "program_error")
    assert watch.units == {"session": Seen(1, 1), "crash": Seen(1, 1), "raising": Seen(10, 10)}
    assert watch.total() == FaultRate(30, 30)
    assert watch.most_faulty("crash") == ("crash", "worker_crashed")


def test_the_last_step_is_the_baseline() -> None:
    """V2's calls at the highest percentage, with the faults that are its own doing; earlier steps are left out."""
    judge = LiveJudge(Config())
    assert judge.v2_baseline() == {}
    for w, arm, outcome in (
        (0.1, "v2", "worker_crashed"),
        (0.5, "v1", "worker_crashed"),
        (0.5, "v2", "worker_crashed"),
        (0.5, "v2", "lm_error"),
        (0.5, "v2", "ok"),
    ):
        tell(judge.judge, Told(1.0, w, arm, None, "p", outcome, 1.0))
    assert judge.v2_baseline() == {"p": Seen(3, 1)}
    assert judge.v2_at_last_step() == FaultRate(3, 1)
