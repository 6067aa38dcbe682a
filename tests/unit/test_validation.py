"""The parts of a validation that need no service: intervals, the queueing formulas, the reports."""

import math
import random
import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest

from cli.validation import report
from cli.validation.measure import _slopes, read_inputs
from cli.validation.outcome import interval, judged, ratio_interval, worst
from cli.validation.tuning import _advice, erlang_c, wait_s, workers_for


def test_an_interval_holds_the_mean() -> None:
    """In about 95 of 100 samples of five; one value alone says nothing."""
    random.seed(7)
    samples = [[random.gauss(3, 1) for _ in range(5)] for _ in range(2000)]
    held = sum(low <= 3 <= high for low, high in map(interval, samples))
    assert 0.93 < held / len(samples) < 0.97
    assert interval([1.0]) == (-math.inf, math.inf)
    low, high = ratio_interval([0.5, 2.0, 1.0])
    assert low < 1 < high
    assert ratio_interval([1.0]) == (0.0, math.inf)


@pytest.mark.parametrize(
    ("low", "high", "state"),
    [(0.95, 1.2, "met"), (0.5, 0.8, "not_met"), (0.8, 1.1, "unknown"), (0.0, math.inf, "unknown")],
)
def test_an_interval_with_both_answers_is_unknown(low: float, high: float, state: str) -> None:
    """A bound of 0.9."""
    assert judged(low, high, at_least=0.9) == state


def test_one_bad_part_decides() -> None:
    """Worse than unknown is not met."""
    assert worst(["met", "unknown", "not_met"]) == "not_met"
    assert worst(["met", "unknown"]) == "unknown"
    assert worst(["met"]) == "met"


def test_erlang_c_is_that_of_the_tables() -> None:
    """One worker: the load itself; two workers at one Erlang: a third; four at two: 0.1739 (Kleinrock's formula)."""
    assert erlang_c(1, 0.3) == pytest.approx(0.3)
    assert erlang_c(2, 1.0) == pytest.approx(1 / 3)
    assert erlang_c(4, 2.0) == pytest.approx(4 / 23)
    assert erlang_c(2, 2.0) == 1.0
    assert 0 < erlang_c(1000, 900.0) < 1


def test_the_wait_is_that_of_a_simulated_queue() -> None:
    """M/M/3 at 80 % by simulation with a fixed seed; constant service times wait half as long."""
    random.seed(11)
    free, clock, waited, count = [0.0, 0.0, 0.0], 0.0, 0.0, 200_000
    for _ in range(count):
        clock += random.expovariate(2.4)
        worker = min(range(3), key=free.__getitem__)
        start = max(clock, free[worker])
        waited += start - clock
        free[worker] = start + random.expovariate(1.0)
    assert wait_s(2.4, 1.0, 1.0, 3) == pytest.approx(waited / count, rel=0.1)
    assert wait_s(2.4, 1.0, 0.0, 3) == pytest.approx(wait_s(2.4, 1.0, 1.0, 3) / 2)
    assert wait_s(3.0, 1.0, 1.0, 3) == math.inf


def test_the_recommended_size_is_the_smallest() -> None:
    """One worker fewer waits too long."""
    for rate in (0.5, 10.0, 400.0):
        size = workers_for(rate, 0.05, 1.5)
        assert wait_s(rate, 0.05, 1.5, size) <= 0.005
        assert size == 1 or wait_s(rate, 0.05, 1.5, size - 1) > 0.005


@pytest.mark.parametrize(
    ("engine", "rate", "now", "recommended"),
    [
        ("session_pool_v2", 0.5, "4 workers, 1 % busy", "V1_POOL_SIZE=1: 1 worker, 5 % busy"),
        ("session_pool_v2", 30, "4 workers, 75 % busy", "V1_POOL_SIZE=6: 6 workers, 50 % busy"),
        ("session_pool", 0.5, "4 workers of which one runs at a time, 5 % busy", "V1_POOL_SIZE=1: 1 worker"),
        (
            "session_pool",
            30,
            "one runs at a time, 100 % busy, calls pile up",
            "V1_ENGINE=session_pool_v2 V1_POOL_SIZE=6",
        ),
    ],
)
def test_a_serial_engine_is_one_server(engine: str, rate: float, now: str, recommended: str) -> None:
    """However many workers it has; more of them are of use to the other engine alone."""
    pool = {"pool_version": "v1", "engine": engine, "size": 4}
    times = {"calls": 1000, "mean_s": 0.1, "variation": 1.0, "p99_s": 0.5, "longest_s": 45.0, "mean_wait_s": 0.0}
    advice = _advice(pool, times, [{"day": "2026-11-26", "peak_per_minute": 60 * rate}])
    assert now in advice["now"]
    assert recommended in advice["recommended"]
    assert advice["timeouts"].startswith("CHECKOUT_TIMEOUT_S=45, EXECUTION_TIMEOUT_S at least 45: ")
    few = _advice(pool, {**times, "calls": 99}, [{"day": "2026-11-26", "peak_per_minute": 60 * rate}])
    assert set(few) == {"pool", "unknown"}


def test_slopes_find_a_leak() -> None:
    """Memory that grows with the calls has a slope, and memory that jitters has none in the mean."""
    random.seed(3)
    leaking = [(calls, 5e7 + 2000.0 * calls + random.gauss(0, 1e4)) for calls in range(0, 10_000, 50)]
    steady = [(calls, 5e7 + random.gauss(0, 1e4)) for calls in range(0, 10_000, 50)]
    low, _ = interval(_slopes(leaking))
    assert low > 1900
    low, high = interval(_slopes(steady))
    assert low < 0 < high < 1024


def test_inputs_name_the_line_that_is_wrong(tmp_path: Any) -> None:
    """Empty lines are none."""
    path = tmp_path / "inputs.jsonl"
    path.write_text('{"program_id": "a", "inputs": {"n": 1}}\n\n{"program_id": "a"}\n')
    with pytest.raises(ValueError, match="line 3"):
        read_inputs(path)
    path.write_text('{"program_id": "a", "inputs": {"n": 1}}\n')
    assert read_inputs(path)[0].program == "a"


REPORT: dict[str, Any] = {
    "at": "2026-11-26T06:00:00Z",
    "by": "ops <b>",
    "pools": "abc",
    "items": [
        {"item": "tests", "state": "met", "evidence": "12 tests", "how": ""},
        {"item": "errors", "state": "not_met", "evidence": 'a | b < c & "d"', "how": "look"},
        {"item": "load", "state": "unknown", "evidence": "no peak", "how": "poolshift migration validate --rate N"},
    ],
    "report": {"benchmarks": {"4": {"interval": [0.95, 1.3]}}},
    "before": {"at": "2026-11-25T06:00:00Z", "items": [{"item": "errors", "state": "met"}]},
}


def test_junit_is_xml_that_a_pipeline_reads() -> None:
    """One case for each item; a failure and a skip."""
    suite = ElementTree.fromstring(report.junit(REPORT))
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("3", "1", "1")
    failure = suite.find("testcase[@name='errors']/failure")
    assert failure is not None
    assert failure.get("message") == 'a | b < c & "d"'


def test_the_page_loads_nothing_and_runs_nothing() -> None:
    """Whatever is in the texts is text; the plot has its figures in words."""
    page = report.page(REPORT)
    assert "ops &lt;b&gt;" in page
    assert "http" not in page.replace("</html>", "")
    assert "<script" not in page
    assert "4 at once: 0.95 to 1.30" in page
    assert "errors: met → NOT MET" in page


def test_markdown_keeps_its_table() -> None:
    """A bar in a text is not a column, and the change since the last time is told."""
    told = report.markdown(REPORT)
    assert r"a \| b &lt; c &amp;" in told
    assert "1 met, 1 not met, 1 unknown of 3 items." in told
    assert "errors: met → NOT MET" in told
