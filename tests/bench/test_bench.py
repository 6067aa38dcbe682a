"""The bench works: real servers, real load generators. No number that it measures fails a test."""

import json
import signal
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from bench import load
from bench.__main__ import app
from bench.load import Load
from bench.outcome import at_least, at_most, greatest_ratio, least_ratio, ratio, server_cpu
from tests.support.service import ROOT, is_alive
from tests.support.waiting import wait_until


def _load(requests: int, failed: int = 0) -> Load:
    return Load(requests, 2.0, failed, p50_ms=1, p99_ms=2, server_cpu_us=100, generator_cpu=0.5)


@pytest.mark.generators
@pytest.mark.git
def test_every_kind_of_measurement_reaches_the_reports(tmp_path: Path) -> None:
    """Peaks, differing requests, a constant rate, random moments, a count of requests and the micro-benchmark."""
    scenarios = ("overhead", "replicas", "scale", "tail", "waiting", "memory", "routing", "console")
    arguments = [part for name in scenarios for part in ("--scenario", name)]
    result = CliRunner().invoke(app, ["--quick", *arguments, "--output", str(tmp_path)])
    assert result.exit_code == 0, result.output
    outcomes = {one["scenario"]: one for one in json.loads((tmp_path / "results.json").read_text())["outcomes"]}
    for name in ("overhead", "replicas", "scale", "tail"):
        for rounds in outcomes[name]["loads"].values():
            assert all(one["requests"] > 0 and one["failed"] == 0 for one in rounds)
    assert (
        len(outcomes["overhead"]["loads"]) >= 8
    )  # Poolshift in six ways, two of FastAPI, and what is installed beside it
    assert outcomes["overhead"]["on"].keys() == outcomes["overhead"]["loads"].keys()
    for rounds, count in zip(outcomes["replicas"]["loads"].values(), (1, 2, 3, 1, 2), strict=True):
        (one,) = rounds
        assert len(one["replicas_cpu_us"]) == count
        assert all(taken > 0 for taken in one["replicas_cpu_us"])
        assert one["supervisor_cpu_us"] < min(one["replicas_cpu_us"])
        assert one["supervisor_cpu_us"] + sum(one["replicas_cpu_us"]) < one["server_cpu_us"]
    for name in ("waiting", "memory", "routing", "console"):
        assert all(figure["value"] > 0 for figure in outcomes[name]["figures"])
    report = (tmp_path / "results.md").read_text()
    assert "Where a peer is better" in report
    assert "throughput, everything on, against mosec | Poolshift V2 |" in report
    for contender in ("Poolshift amid a ramp", "Poolshift V2, uncompiled"):
        assert f"throughput, everything on, against mosec | {contender} |" in report
    assert "throughput of two replicas against one process | Poolshift with 2 replicas |" in report
    assert "Left out" in report
    assert "Left out" in result.output


def start_bench(output: Path) -> subprocess.Popen[str]:
    """The command as a process of its own, once it measures."""
    command = [
        sys.executable,
        "-m",
        "bench",
        "--scenario",
        "replicas",
        "--quick",
        "--rounds",
        "9",
        "--output",
        str(output),
    ]
    bench = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert bench.stderr is not None
    while "round 1" not in (line := bench.stderr.readline()):
        assert line, "it ended before it measured"
    return bench


def servers_of(bench: subprocess.Popen[str]) -> list[psutil.Process]:
    return [one for one in psutil.Process(bench.pid).children() if "serve" in one.cmdline()]


@pytest.mark.generators
@pytest.mark.git
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_who_ends_it_ends_its_servers(tmp_path: Path, number: signal.Signals) -> None:
    """A closed terminal too: nothing is left that would disturb whoever measures next."""
    bench = start_bench(tmp_path)
    processes = psutil.Process(bench.pid).children(recursive=True)
    bench.send_signal(number)
    bench.communicate(timeout=30)
    assert bench.returncode == 128 + number
    wait_until(lambda: not any(is_alive(one.pid) for one in processes), "all that it started has ended")


@pytest.mark.generators
@pytest.mark.git
def test_a_contender_that_dies_is_named(tmp_path: Path) -> None:
    """In the place of figures that its orphans might have got, or a traceback of the generator's."""
    bench = start_bench(tmp_path)
    servers_of(bench)[0].kill()
    _, told = bench.communicate(timeout=60)
    assert bench.returncode == 1
    assert "ended amid the bench" in told
    assert "Traceback" not in told


def test_a_folder_that_cannot_be_written_to_is_told_at_once(tmp_path: Path) -> None:
    """In a line, before anything is measured."""
    taken = tmp_path / "taken"
    taken.touch()
    result = CliRunner().invoke(app, ["--quick", "--scenario", "routing", "--output", str(taken)])
    assert result.exit_code == 1
    assert "bench: " in result.output
    assert "Traceback" not in result.output


def test_an_unknown_scenario_is_refused() -> None:
    """A typo does not pass for a run of nothing."""
    result = CliRunner().invoke(app, ["--scenario", "overheat"])
    assert result.exit_code == 2


def test_failed_answers_are_no_throughput() -> None:
    """A contender gains nothing by refusing quickly."""
    assert _load(1000, failed=400).rps == 300


@pytest.mark.parametrize("rate", [1.0, 199.0, 3_333.3, 7_095.0, 8_000.0, 25_000.0])
def test_a_constant_rate_has_no_bursts(rate: float) -> None:
    """Opened 5 ms apart, the connections' moments are spread evenly over the interval of one: all are as far apart."""
    even = load.even_rate(rate)
    assert abs(even - rate) <= max(100, 200 - rate)
    connections = load.connections_for(even)
    # In units of the whole interval, exactly: 5 ms are even × 5 ÷ 1000 requests, of `connections` in an interval.
    moments = {Fraction(number * even * 5, 1000 * connections) % 1 for number in range(connections)}
    assert moments == {Fraction(number, connections) for number in range(connections)}
    assert connections / even >= 0.01


def test_a_ratio_is_taken_round_by_round() -> None:
    """A slow round slows both sides of its ratio down."""
    loads = {"ours": [_load(400), _load(40), _load(200)], "theirs": [_load(200), _load(20), _load(100)]}
    assert ratio(loads, "ours", "theirs") == 2


def test_the_better_of_a_peer_s_ways_counts() -> None:
    """The faster one for a throughput, the thriftier one for a processor time, even if it is the other one."""
    loads = {"ours": [_load(400)], "fast": [replace(_load(300), server_cpu_us=400)], "thrifty": [_load(100)]}
    assert least_ratio(loads, "ours", ["fast", "thrifty", "absent"]) == 400 / 300
    assert greatest_ratio(loads, "ours", ["fast", "thrifty", "absent"], server_cpu) == 1
    assert least_ratio(loads, "ours", ["absent"]) is None


def test_a_goal_without_its_peer_is_neither_met_nor_missed() -> None:
    """A peer that is not installed is no victory."""
    absent = ratio({"ours": [_load(100)]}, "ours", "theirs")
    assert at_least("throughput", 1.1, absent).is_met is None
    assert at_least("throughput", 1.1, 1.1).is_met
    assert not at_most("p99", 1, 1.01).is_met
