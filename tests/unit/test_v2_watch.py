"""V2's calls and faults while it has all calls: what counts, from when on, and what the rate of now is about."""

import time
from dataclasses import replace

import pytest

from pools.calls import Call
from routing.rollout.model import Rollout, Source
from routing.rollout.v2_watch import MAX_PROGRAMS, OTHERS, RECENT_S, FaultRate, V2Watch
from routing.versions import Decision, Reason, Version
from tests.support.fake_pools import echo_program

HALF = Rollout(1, 5000, None, Source.API, "alice", None)
ALL = replace(HALF, canary_basis_points=10_000)
ORGANIC = Decision(Version.V2, Reason.SPLIT)


def call(program_id: str = "p") -> Call:
    return Call("e-1", echo_program(program_id), b"{}", 60.0)


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
