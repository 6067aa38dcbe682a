"""The report: its lines about contenders with replicas, and about peers."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from bench.again import read, write
from bench.arena import RAMP, REPLICAS, V1, V2, on_by_title
from bench.contenders import MOSEC, Poolshift
from bench.load import Load
from bench.outcome import Outcome, at_least, at_most
from bench.report import as_json
from bench.scenarios.replicas import busiest_cpu, replica_cpu, supervisor_cpu, workers_cpu
from tests.support.pages import section, table
from tests.support.service import ROOT

RELEASED = read(ROOT / "bench/results/2026-11-28.json")


def load(requests: int) -> Load:
    return Load(
        requests,
        1.0,
        0,
        p50_ms=1.0,
        p99_ms=2.0,
        server_cpu_us=100.0,
        generator_cpu=0.5,
        supervisor_cpu_us=1.0,
        replicas_cpu_us=(20.0, 30.0),
    )


def outcome(requests: Mapping[str, int]) -> Outcome:
    """An outcome of one round, with a goal of each of our contenders, and one of nobody's."""
    loads = {name: [load(number)] for name, number in requests.items()}
    goals = [
        at_least("throughput", 1.1, 1.0, contender=V2),
        at_least("throughput", 1.4, 1.5, contender=REPLICAS),
        at_most("decision", 1, 0.5, " µs"),
    ]
    return Outcome("overhead", "a program", loads, reference=V2, goals=goals)


def report(outcomes: Sequence[Outcome], folder: Path) -> str:
    """The report of a run, written from its result file."""
    path = folder / "results.json"
    path.write_text(as_json(RELEASED.machine, RELEASED.plan, outcomes))
    written = read(path)
    assert as_json(RELEASED.machine, RELEASED.plan, written.outcomes) == path.read_text()  # nothing is lost on the way
    write(written, folder)
    return (folder / "results.md").read_text()


def test_each_goal_names_its_contender(tmp_path: Path) -> None:
    """The same goal of two contenders has two bounds: each row tells whose it is."""
    text = report([outcome({V2: 100, REPLICAS: 150, MOSEC.name: 100})], tmp_path)
    rows = [(row["goal"], row["contender"], row["bound"], row[""]) for row in table(section(text, "## Goals"), "goal")]
    assert rows == [
        ("throughput", V2, "≥ 1.1", "**not met**"),
        ("throughput", REPLICAS, "≥ 1.4", "met"),
        ("decision", "–", "≤ 1 µs", "met"),
    ]
    assert f"| {REPLICAS} | 150 |" in section(text, "## overhead")


@pytest.mark.parametrize("other", [REPLICAS, RAMP])
def test_a_peer_is_compared_with_each_of_our_contenders(tmp_path: Path, other: str) -> None:
    """A peer that V2 loses to is not hidden by another of ours, and one that only the other loses to is told, too."""
    better_than_v2 = report([outcome({V2: 100, other: 300, MOSEC.name: 200})], tmp_path)
    assert "against Poolshift V2: mosec has 2.00 × the throughput" in better_than_v2
    assert f"against {other}" not in better_than_v2
    better_than_other = report([outcome({V2: 200, other: 100, MOSEC.name: 200})], tmp_path)
    assert "against Poolshift V2: mosec" not in better_than_other
    assert f"against {other}: mosec has 2.00 × the throughput" in better_than_other


def test_a_row_tells_what_was_on(tmp_path: Path) -> None:
    """The percentage, the judge, shadow calls, traces and metrics; a released run from before has a dash."""
    settings = {"SHADOW_PERCENT": "1"}
    ramp = Poolshift("ramp", v1_share=0.5, settings=settings, collector_url="http://127.0.0.1:1")
    assert ramp.on == "50 % on V2, judge, 1 % shadow, 1 % traces, metrics"
    silent = Poolshift("silent", v1_share=0, is_observed=False)
    assert silent.on == "100 % on V2, no judge, 0 % shadow, no traces, no metrics"
    told = report([replace(outcome({V2: 100, V1: 50}), on={V2: silent.on})], tmp_path)
    rows = {row[0]: row[-1] for row in (line.strip("| ").split(" | ") for line in told.splitlines()) if len(row) > 7}
    assert (rows[V2], rows[V1]) == (silent.on, "–")


def test_a_condition_in_a_name_leaves_its_contender_known() -> None:
    """A name in a table may be a contender's, a comma, and a condition."""
    loads: Mapping[str, Sequence[Load]] = {V2: [], f"{V2}, unobserved": [], f"{V2}, 4 workers": [], "unknown": []}
    on = {V2: "all", f"{V2}, unobserved": "little"}
    assert on_by_title(on, loads) == {V2: "all", f"{V2}, unobserved": "little", f"{V2}, 4 workers": "all"}


def test_the_parts_of_a_call_add_up() -> None:
    """The workers' part is what the supervisor and its replicas leave."""
    one = load(100)
    assert (supervisor_cpu(one), replica_cpu(0, one), replica_cpu(1, one), workers_cpu(one)) == (1, 20, 30, 49)
    assert busiest_cpu(one) == 30
