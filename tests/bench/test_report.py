"""The report: its lines about contenders with fronts, and about peers."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from bench.again import read, write
from bench.arena import FRONTS, V1, V2, on_by_title, settings_of
from bench.contenders import MOSEC, Poolshift
from bench.load import Load
from bench.outcome import Outcome, at_least, at_most
from bench.report import as_json
from bench.scenarios.fronts import at_cores, fronts_cpu, own_cpu, workers_cpu
from tests.support.pages import section, table
from tests.support.service import ROOT

RELEASED = read(ROOT / "bench/results/2026-11-28.json")


def load(requests: int) -> Load:
    return Load(requests, 1.0, 0, p50_ms=1.0, p99_ms=2.0, server_cpu_us=100.0, generator_cpu=0.5, own_cpu_us=20.0)


def outcome(requests: Mapping[str, int]) -> Outcome:
    """An outcome of one round, with a goal of each of our contenders, and one of nobody's."""
    loads = {name: [load(number)] for name, number in requests.items()}
    goals = [
        at_least("throughput", 1.1, 1.0, contender=V2),
        at_least("throughput", 1.4, 1.5, contender=FRONTS),
        at_most("decision", 1, 0.5, " µs"),
    ]
    return Outcome("overhead", "a program", loads, reference=V2, goals=goals, settings=settings_of(loads))


def report(outcomes: Sequence[Outcome], folder: Path) -> str:
    """The report of a run, written from its result file."""
    path = folder / "results.json"
    path.write_text(as_json(RELEASED.machine, RELEASED.plan, outcomes))
    written = read(path)
    assert as_json(RELEASED.machine, RELEASED.plan, written.outcomes) == path.read_text()  # nothing is lost on the way
    write(written, folder)
    return (folder / "results.md").read_text()


def test_each_goal_names_its_contender(tmp_path: Path) -> None:
    """The same goal of two contenders has two bounds: each row tells whose it is, with the setting."""
    text = report([outcome({V2: 100, FRONTS: 150, MOSEC.name: 100})], tmp_path)
    (setting,) = settings_of({FRONTS: []}).values()
    assert setting.startswith("WEB_CONCURRENCY=")
    rows = [(row["goal"], row["contender"], row["bound"], row[""]) for row in table(section(text, "## Goals"), "goal")]
    assert rows == [
        ("throughput", V2, "≥ 1.1", "**not met**"),
        ("throughput", f"{FRONTS} ({setting})", "≥ 1.4", "met"),
        ("decision", "–", "≤ 1 µs", "met"),
    ]
    assert f"| {FRONTS} ({setting}) | 150 |" in section(text, "## overhead")


def test_a_peer_is_compared_with_each_of_our_contenders(tmp_path: Path) -> None:
    """A peer that V2 loses to is not hidden by fronts, and one that only fronts lose to is told as well."""
    (setting,) = settings_of({FRONTS: []}).values()
    better_than_one = report([outcome({V2: 100, FRONTS: 300, MOSEC.name: 200})], tmp_path)
    assert "against Poolshift V2: mosec has 2.00 × the throughput" in better_than_one
    assert f"against {FRONTS}" not in better_than_one
    better_than_fronts = report([outcome({V2: 200, FRONTS: 100, MOSEC.name: 200})], tmp_path)
    assert "against Poolshift V2: mosec" not in better_than_fronts
    assert f"against {FRONTS} ({setting}): mosec has 2.00 × the throughput" in better_than_fronts


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
    """The workers' part is what the service's own process and its fronts leave."""
    one = replace(load(100), fronts_cpu_us=50.0)
    assert own_cpu(one) + fronts_cpu(one) + workers_cpu(one) == one.server_cpu_us == 100
    assert (own_cpu(one), fronts_cpu(one), workers_cpu(one)) == (20, 50, 30)


@pytest.mark.parametrize(
    ("cores", "own_us", "total_us", "calls"),
    [(4, 10, 80, 50_000), (16, 10, 80, 100_000), (64, 10, 80, 100_000), (4, 50, 80, 20_000), (4, 0, 80, 50_000)],
)
def test_cores_help_until_the_one_process_is_busy(cores: int, own_us: float, total_us: float, calls: float) -> None:
    """Computed from the cost of a call: all cores are used, unless the service's own process needs more than one."""
    assert at_cores(cores, own_us, total_us) == calls
