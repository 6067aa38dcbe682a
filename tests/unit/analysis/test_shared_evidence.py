"""Evidence of several replicas is that of one, however the calls were dealt to them."""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import replicas
from analysis.judge import Judge

CALLS = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 5) | st.none(), st.sampled_from(["v1", "v2"]), st.booleans()),
    max_size=60,
)
"""Replica, key, version and whether the call fails; a key's version is that of its first call."""


def feed(judge: Judge, at: int, key: int | None, arm: str, *, fails: bool) -> None:
    t = 10.0 * at  # each fault is an incident of its own
    judge.assigned(t, 0.5, arm, key)
    judge.ended(t, 0.5, arm, key, "p", "program_error" if fails else "ok", 5.0)


def told(judge: Judge) -> dict[str, Any]:
    """The snapshot that another replica reads from the store."""
    found: dict[str, Any] = json.loads(json.dumps(replicas.snapshot(judge.counters, judge.keyed)))
    return found


@given(CALLS)
@settings(deadline=None)
def test_a_key_that_several_replicas_saw_counts_once(calls: list[tuple[int, int | None, str, bool]]) -> None:
    """The faults of all replicas together are those that one service would have counted."""
    one, several = Judge(), [Judge(), Judge(), Judge()]
    versions: dict[int, str] = {}
    for at, (replica, key, chance, fails) in enumerate(calls):
        arm = chance if key is None else versions.setdefault(key, chance)
        feed(one, at, key, arm, fails=fails)
        feed(several[replica], at, key, arm, fails=fails)
    first, *rest = several
    others = replicas.others(first.keyed, [told(judge) for judge in rest])
    merged = first.counters if others is None else first.counters.merge(others)
    assert _events(merged.events) == _events(one.counters.events)


def _events(events: dict[Any, list[int]]) -> dict[Any, list[int]]:
    return {key: pair for key, pair in events.items() if any(pair)}
