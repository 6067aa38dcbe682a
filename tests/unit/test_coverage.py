"""The programs that V2 has run: which have traffic, what counts as a run, and how long a promotion waits for them."""

from collections.abc import Mapping, Sequence

import pytest

from analysis.guardrails import Config
from analysis.judge import Judge
from routing.rollout.coverage import TRAFFIC_S, Coverage, CoverageView, ProgramRuns
from routing.rollout.live_judge import LiveJudge
from tests.unit.analysis.calls import Told, tell

COVERAGE = Coverage(
    (ProgramRuns("a", 60, 0), ProgramRuns("b", 10, 40), ProgramRuns("c", 0, 49), ProgramRuns("d", 0, 0))
)


def test_calls_and_copies_count_together() -> None:
    """The programs with the fewest come first, and one without any has never run."""
    assert [one.program_id for one in COVERAGE.short_of(50)] == ["d", "c"]
    assert COVERAGE.never_run == ["d"]
    assert COVERAGE.never_run_text() == "V2 has never run 1 of 4 programs with traffic in the last 24 h: d"
    assert Coverage(()).never_run_text() is None


@pytest.mark.parametrize(
    ("share", "min_calls", "is_covered"),
    [(0.5, 50, True), (0.51, 50, False), (0.75, 49, True), (0.95, 1, False), (1.0, 1, False), (0.75, 1, True)],
)
def test_a_share_of_the_programs_is_enough(share: float, min_calls: int, is_covered: bool) -> None:
    """The share is of programs; half of one program more is one more."""
    missing = COVERAGE.missing(share, min_calls)
    assert (missing is None) is is_covered
    if missing is not None:
        assert f"d (0 of {min_calls})" in missing


def test_no_traffic_is_no_gap() -> None:
    assert Coverage(()).missing(1.0, 50) is None


def test_a_long_list_is_cut() -> None:
    """Five names, and the number of the others."""
    coverage = Coverage(tuple(ProgramRuns(f"p{number}", 0, 0) for number in range(8)))
    assert (coverage.never_run_text() or "").endswith("p0, p1, p2, p3, p4 and 3 others")
    assert "and 3 others" in (coverage.missing(1.0, 50) or "")


class _Programs:
    """The programs with traffic, and how often they were asked for."""

    def __init__(self) -> None:
        self.asked: list[float] = []

    async def used_since(self, seconds: float) -> Sequence[str]:
        self.asked.append(seconds)
        return ["called", "copied", "idle"]


def copies() -> Mapping[str, int]:
    return {"copied": 4, "deleted": 9}


@pytest.mark.anyio
async def test_the_view_adds_up_all_that_v2_has_run() -> None:
    """The judge's calls on V2 alone, those of other replicas, copies, and calls since the promotion."""
    judge, others, programs = LiveJudge(Config()), Judge(), _Programs()
    for told_to in (judge.judge, others):
        for arm in ("v1", "v2", "v2"):
            tell(told_to, Told(0.0, 0.5, arm, None, "called", "program_error", 1.0))
    judge.hear_others(others.counters)
    view = CoverageView(judge, programs.used_since)
    view.copies = copies
    found = await view.look({"idle": 2})
    assert found.programs == (ProgramRuns("called", 4, 0), ProgramRuns("copied", 0, 4), ProgramRuns("idle", 2, 0))
    assert (await view.look()).never_run == ["idle"]
    assert view.latest is not None
    assert programs.asked == [TRAFFIC_S]
