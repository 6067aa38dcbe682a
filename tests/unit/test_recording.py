"""The recording of what the judge saw: bounded, exact, and no obstacle to a rollback."""

import json
from collections import deque
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from analysis.guardrails import Config
from analysis.verdict import Detectable, Row, Tally
from analysis.verdict import Evidence as Fed
from routing.rollout.live_judge import End, LiveJudge
from routing.rollout.recording import FedChange, Recording

_CALLS: st.SearchStrategy[dict[str, Any]] = st.builds(
    dict,
    key_hash=st.none() | st.integers(0, 2**64 - 1),
    version=st.sampled_from(["v1", "v2"]),
    program=st.sampled_from(["p", "q"]),
    outcome=st.sampled_from(["ok", "program_error"]),
    ms=st.floats(5, 1000),
    cost=st.sampled_from([0.0, 0.25, None]),
    attempts=st.sampled_from([[], ["worker_crashed"]]),
    is_cold=st.booleans(),
)


@given(st.lists(_CALLS, max_size=12), st.integers(1, 5))
def test_the_newest_calls_come_out_as_they_went_in(calls: list[dict[str, Any]], limit: int) -> None:
    """In their order, however many there were before; what has no room is counted."""
    recording, kept = Recording(limit), deque[dict[str, Any]](maxlen=limit)
    for number, call in enumerate(calls):
        recording.add(float(number), number - 0.5, 0.25, **call)
        kept.append({"t": float(number), **call})
    lines = list(recording.snapshot().lines())
    assert len(recording) == len(lines) == len(kept)
    assert recording.dropped == len(calls) - len(kept)
    for line, call in zip(lines, kept, strict=True):
        assert (line["t"], line["assigned"], line["w"]) == (call["t"], call["t"] - 0.5, 0.25)
        assert line["key"] == (None if call["key_hash"] is None else f"{call['key_hash']:016x}")
        assert (line["arm"], line["program"], line["outcome"]) == (call["version"], call["program"], call["outcome"])
        assert line["ms"] == round(call["ms"], 3)
        assert line.get("cost", 0.0) == call["cost"]
        assert line.get("attempts", []) == call["attempts"]
        assert line.get("cold", False) == call["is_cold"]


def test_what_the_judge_was_fed_stands_at_its_time() -> None:
    """Between the calls before and after it."""
    recording = Recording()
    fed = Fed("shadow", 1.5, 6.9)
    for t in (1.0, 3.0):
        recording.add(t, t, 0.5, None, "v2", "p", "ok", 6.0, 0.0, [], is_cold=False)
        recording.add_fed(FedChange(t + 1, 0.5, "pause", fed, None, promotes=False))
    assert [(line["t"], "fed" in line) for line in recording.lines()] == [
        (1.0, False),
        (2.0, True),
        (3.0, False),
        (4.0, True),
    ]
    json.dumps(list(recording.lines()))
    recording.clear()
    assert not list(recording.lines())


def test_a_slow_version_is_told_beside_what_the_judge_is_fed() -> None:
    """The times behind `latency` are told, too, if evidence of shadow calls came among the calls."""
    judge = LiveJudge(Config())
    judge.percent_changed(5_000)
    none = Tally(0, 0)
    row = Row("shadow", "pause", 0.0, 6.9, none, none, (0.0, None), "all", Detectable(2.0, None, None))
    for number in range(40):
        version, ms = ("v2", 200.0) if number % 2 else ("v1", 10.0)
        evidence = judge.assigned(None, is_canary=version == "v2")
        judge.ended(
            evidence, End(f"e{number}", "p", version, "ok", ms, is_cold=False, cost=0.0, detail="", t=float(number))
        )
        judge.feed(Fed("shadow", 9.0 if number % 4 else 0.0, 6.9), row, lambda: "V2 is the odd one")
    assert "200" in judge.told("latency")
    assert judge.told("shadow") == "V2 is the odd one"
