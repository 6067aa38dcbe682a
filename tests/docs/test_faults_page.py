"""docs/faults.md: each row names a test that is there; a worker's faults are put to a service and compared with it."""

import re
import signal
from pathlib import Path
from typing import Any

import pytest

from app.problem_kinds import KINDS
from pools.process.exits import ExitCause, describe_exit
from tests.support.pages import codes, page, section, table
from tests.support.service import ROOT, Service
from tests.support.waiting import wait_until

PAGE = page("faults.md")
WORKERS = table(section(PAGE, "## A worker, or the program on it"), "fault")
POOL = table(section(PAGE, "## The pool"), "fault")
OTHERS = table(section(PAGE, "## The caller and the operator"), "fault")
ROWS = [*WORKERS, *POOL, *OTHERS]
FILES = {path.name: path for path in (ROOT / "tests").rglob("test_*.py")}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["fault"])
def test_the_test_of_a_row_is_there(row: dict[str, str]) -> None:
    """And is a test function of the file that is named."""
    (named,) = codes(row["test"])
    file, _, function = named.partition("::")
    assert re.search(rf"^(async )?def {function}\(", FILES[file].read_text(), re.MULTILINE), named


def test_codes_and_causes_are_ours() -> None:
    """Each is in the taxonomy, or the row says why there is none; no cause of a worker's end is left out."""
    causes = set()
    for row in ROWS:
        found = [code for code in codes(row["code"]) if code != "sys.exit"]
        assert set(found) <= KINDS.keys(), row
        assert found or row["code"].startswith("none: "), row
        assert row["cause"].startswith("none") or set(codes(row["cause"])) <= set(ExitCause), row
        causes.update(codes(row["cause"]))
    assert causes == set(ExitCause)


def test_log_lines_are_in_the_code() -> None:
    """An operator who searches for one finds it."""
    folders = ("app", "common", "pools", "routing", "store")
    source = "".join(path.read_text() for folder in folders for path in (ROOT / folder).rglob("*.py"))
    for row in ROWS:
        assert row["log line"] == "none" or len(codes(row["log line"])) == 1
        for line in codes(row["log line"]):
            assert f'"{line}"' in source, line
    (kept,) = set(re.findall(r"`(what is to be [^`]+)`", " ".join(PAGE.split())))
    assert f'"{kept}"' in source


def of(fault: str) -> dict[str, str]:
    """The row whose fault begins so."""
    (row,) = [row for row in WORKERS if row["fault"].startswith(fault)]
    return row


@pytest.mark.parametrize(
    ("fault", "function", "inputs", "arguments"),
    [
        ("the program raises", "fail", {"message": "string"}, {"message": "x"}),
        ("it returns what does not fit", "not_json", {}, {}),
        ("it calls `sys.exit`", "exits", {"code": "integer"}, {"code": 0}),
        ("it calls `sys.exit`", "exits_hard", {"code": "integer"}, {"code": 3}),
        ("it segfaults", "segfaults", {}, {}),
        ("it segfaults", "kills_itself", {"signal_number": "integer"}, {"signal_number": signal.SIGABRT}),
        ("it closes the pipe", "closes_channel", {}, {}),
        ("it writes garbage", "writes_garbage", {}, {}),
        ("it writes garbage", "writes_half_a_frame", {}, {}),
        ("it answers in the name", "forges_a_reply", {"execution_id": "string"}, {"execution_id": "another"}),
        ("it overruns its deadline", "spins", {}, {}),
    ],
)
def test_a_fault_is_as_its_row_says(
    shared_service: Service,
    version: str,
    fault: str,
    function: str,
    inputs: dict[str, str],
    arguments: dict[str, Any],
) -> None:
    """Code, status, cause in the metrics, and the log line that comes with it, and no other cause."""
    row = of(fault)
    program = shared_service.create(function, inputs)
    before = {cause: exits(shared_service, version, cause) for cause in ExitCause}
    logged_before = len(shared_service.log())

    timeout_s = 0.3 if codes(row["cause"]) == [ExitCause.TIMEOUT] else 20
    answer = shared_service.execute(program, inputs=arguments, timeout_s=timeout_s)

    (code,) = [code for code in codes(row["code"]) if code in KINDS]
    assert (answer.status_code, answer.json()["code"]) == (KINDS[code].status, code)
    ended_for = codes(row["cause"])
    after = {cause: exits(shared_service, version, cause) for cause in ExitCause}
    assert [cause for cause in ExitCause if after[cause] != before[cause]] == ended_for
    if row["log line"] == "none":
        assert "worker died" not in shared_service.log()[logged_before:]
    else:
        (line,) = codes(row["log line"])
        wait_until(lambda: line in shared_service.log()[logged_before:], f"{line!r} is logged")


def exits(service: Service, version: str, cause: str) -> float:
    """Returns the number of workers that ended for `cause`, by the metrics."""
    return service.metric("poolshift_worker_exits_total", pool_version=version, cause=cause)


def test_a_kill_by_the_kernel_is_told_apart() -> None:
    """A SIGKILL is `oom` only where the kernel has counted one, and no death of ours is ever called so."""
    killed = int(signal.SIGKILL)

    def cause(*, oom_killed: bool, ended_for: ExitCause | None = None) -> ExitCause:
        return describe_exit(killed, 0, ended_for=ended_for, fault=None, oom_killed=oom_killed).cause

    assert cause(oom_killed=True) is ExitCause.OOM
    assert cause(oom_killed=False) is ExitCause.SIGNAL
    assert cause(oom_killed=True, ended_for=ExitCause.TIMEOUT) is ExitCause.TIMEOUT


def test_every_fault_test_of_the_suite_has_a_row() -> None:
    """But for those that are about what goes well."""
    about_what_goes_well = {
        "test_the_settings_cap_the_deadline",
        "test_a_killed_zygote_is_no_fault_of_the_programs",
        "test_ten_megabytes_of_outputs",
        "test_workers_are_measured_on_themselves",
        "test_a_session_ends_and_frees_what_it_holds",
        "test_a_session_prefers_the_worker_that_served_it",
        "test_a_rollback_amid_a_session",
        "test_a_worker_inherits_nothing_that_it_does_not_need",
        "test_only_the_service_may_open_more_files",
        "test_what_programs_print_is_logged",
    }
    there = set(re.findall(r"^def (test_\w+)", FILES["test_faults.py"].read_text(), re.MULTILINE))
    named = {codes(row["test"])[0].partition("::")[2] for row in ROWS}
    assert there - named == about_what_goes_well


def test_the_files_of_the_tests_are_told_apart_by_name() -> None:
    """Otherwise a row could name a test of another file."""
    names = [path.name for path in Path(ROOT / "tests").rglob("test_*.py")]
    assert len(set(names)) == len(names)
