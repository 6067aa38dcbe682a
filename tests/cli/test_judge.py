"""`poolshift judge`: traces in, verdicts out; a trace that cannot be read is exit status 2 and one line."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from bench.judge.scenarios import ALL
from bench.judge.traces import Call, trace
from cli.main import app

CALL = Call(1.0, 0.1, "v1", None, "p", "ok", 5.0).as_json()


def judge(*arguments: object, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, ["judge", *map(str, arguments)], input=stdin)


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trace of a V2 that crashes far more often."""
    path = tmp_path_factory.mktemp("traces") / "broken.jsonl"
    lines = []
    for number, call in enumerate(trace(ALL["engine faults x20"], 1)):
        if number == 6000:
            break
        lines.append(call.as_json())
    path.write_text("\n".join(lines) + "\n\n")
    return path


def test_replay_tells_each_change_and_the_end(broken: Path) -> None:
    result = judge("replay", broken, "--json")
    assert result.exit_code == 0
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [set(line) for line in lines] == [{"trace", "call", "t", "verdict", "guardrail", "evidence"}] * len(lines)
    assert [(line["trace"], line["verdict"], line["guardrail"]) for line in lines] == [
        (str(broken), "rollback", "engine")
    ] * 2
    assert lines[0]["call"] < 6000 == lines[1]["call"]
    assert lines[0]["evidence"]["log_e"] >= lines[0]["evidence"]["threshold"]


def test_replay_reads_standard_input(broken: Path) -> None:
    told = judge("replay", "-", "--json", stdin=broken.read_text())
    lines = [json.loads(line) for line in told.stdout.splitlines()]
    assert lines[-1]["trace"] == "-"
    assert lines[-1]["verdict"] == "rollback"


def test_replay_shows_people_a_table(broken: Path) -> None:
    result = judge("replay", broken)
    assert "rollback" in result.stdout
    assert "threshold" in result.stdout


def test_an_empty_trace_says_continue(tmp_path: Path) -> None:
    (tmp_path / "none.jsonl").touch()
    result = judge("replay", tmp_path / "none.jsonl", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["verdict"] == "continue"


@pytest.mark.parametrize(
    "line",
    [
        '{"t": 1, "w":',
        "garbage",
        "[]",
        "\x00\x01",
        CALL.replace('"v1"', '"v3"'),
        CALL.replace("0.1", "1.5"),
        CALL.replace("0.1", "NaN"),
        CALL.replace("5.0", '"fast"'),
        CALL.replace("null", "7"),
        CALL.replace('"arm": "v1", ', ""),
        CALL.replace('"p"', '"\\ud800"'),
        "[" * 100_000,
    ],
)
def test_garbage_names_file_and_line(tmp_path: Path, broken: Path, line: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(f"{CALL}\n{CALL}\n{line}\n")
    result = judge("replay", path, broken, "--json")
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert f"{path}, line 3: " in result.stderr
    assert '"rollback"' in result.stdout


@pytest.mark.parametrize("name", ["missing.jsonl", "."])
def test_a_trace_that_is_no_file_is_named(tmp_path: Path, name: str) -> None:
    result = judge("replay", tmp_path / name, "--json")
    assert result.exit_code == 2
    assert str(tmp_path) in result.stderr


def test_cold_calls_and_failed_attempts_are_read(tmp_path: Path) -> None:
    calls = [json.loads(CALL) | {"t": t, "arm": "v2", "cold": True, "attempts": ["worker_crashed"]} for t in range(12)]
    path = tmp_path / "attempts.jsonl"
    path.write_text("\n".join(map(json.dumps, calls)))
    lines = judge("replay", path, "--json").stdout.splitlines()
    assert json.loads(lines[-1])["guardrail"] == "engine"


def test_power_says_how_long_both_take() -> None:
    """Until a regression is found, and until a V2 that is as good as V1 is promoted."""
    arguments = ("power", "--rate", 50, "--faults", 0.02, "--ratio", 5, "--ramp", "10:2000,50:10000")
    regression, promotion = judge(*arguments).stdout.splitlines()
    assert regression.startswith("V2 with 5 times the faults: found in about ")
    assert re.fullmatch(r"V2 as good as V1: promoted after about \S+ calls, .+, \S+ of them at 50 %", promotion)
    found = json.loads(judge(*arguments, "--json").stdout)
    assert found.keys() == {"calls", "seconds", "found", "ramps", "promotion"}
    promoted = found["promotion"]
    assert promoted.keys() == {"calls", "seconds", "last_step_calls", "promoted", "ramps", "guardrails"}
    guardrails = {name: one["calls"] for name, one in promoted["guardrails"].items()}
    assert guardrails.keys() == {"engine", "program", "latency", "tail"}
    assert max(guardrails.values()) <= promoted["last_step_calls"]
    assert promoted["calls"] == 2000 + promoted["last_step_calls"]
    assert promoted["seconds"] == promoted["calls"] / 50
    lines = judge(*arguments, "--promotion").stdout.splitlines()
    assert lines[0] == promotion
    assert [line.split()[0] for line in lines[2:]] == list(guardrails)
    assert all(re.fullmatch(r"  \w+ +\S+ calls, \d+ (s|min|h)", line) for line in lines[2:]), lines
    assert judge("power", "--ramp", "nonsense").exit_code != 0
