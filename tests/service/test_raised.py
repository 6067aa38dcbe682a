"""Programs that fail or speak in odd ways: whatever they raise, return, yield or log, their worker goes on."""

import json

import pytest

from poolshift.worker.exception_text import MAX_MESSAGE_LENGTH, MAX_TRACEBACK_LENGTH
from tests.conftest import StartService
from tests.service.test_async_executions import end_of, start
from tests.service.test_errors import crashes, problem
from tests.service.test_faults import whole
from tests.service.test_streaming import EVENTS
from tests.support.service import Service
from tests.support.waiting import wait_until


@pytest.mark.parametrize("size", [MAX_MESSAGE_LENGTH, 900_000, 70_000_000])
def test_a_long_message_is_cut(shared_service: Service, size: int) -> None:
    """The answer and the job show a truncated `program_error`, however long the message is."""
    program = shared_service.create("fail_at_length", {"size": "integer"})
    detail = problem(shared_service.execute(program, inputs={"size": size}), 500, "program_error")["detail"]
    assert detail == "ValueError: zzz".ljust(MAX_MESSAGE_LENGTH, "z") + "…"
    kept = end_of(shared_service, start(shared_service, program, {"size": size}))["problem"]
    assert (kept["code"], kept["detail"]) == ("program_error", detail)


def test_errors_fill_the_log_no_faster_than_prints(start_service: StartService, version: str) -> None:
    """A worker's tracebacks are under its budget: the rest is counted. Each has its beginning and its end."""
    service = start_service(POOL_VERSION=version, V1_POOL_SIZE=1, V2_POOL_SIZE=1, LOG_FORMAT="json")
    deep = service.create("fail_deeply", {"depth": "integer"})
    problem(service.execute(deep, inputs={"depth": 300}), 500, "program_error")
    (raised,) = raised_lines(service)
    assert len(raised["traceback"]) < MAX_TRACEBACK_LENGTH + 10
    assert raised["traceback"].startswith("Traceback (most recent call last)")
    assert raised["traceback"].endswith("ValueError: the bottom\n")

    program = service.create("fail_at_length", {"size": "integer"})
    calls = 60
    for _ in range(calls):
        problem(service.execute(program, inputs={"size": 30_000}), 500, "program_error")

    def left_out() -> int:
        lines = map(json.loads, service.log().splitlines())
        return sum(line["count"] for line in lines if line["event"] == "lines of a worker left out of the log")

    wait_until(lambda: len(raised_lines(service)) + left_out() == calls + 1, "each traceback is logged or counted")
    assert left_out() > 0
    assert all(len(line["traceback"]) < MAX_TRACEBACK_LENGTH + 10 for line in raised_lines(service))


def raised_lines(service: Service) -> list[dict[str, str]]:
    return [line for line in map(json.loads, service.log().splitlines()) if line["event"] == "program raised"]


@pytest.mark.parametrize(
    ("function", "detail"),
    [
        ("fail_unsendably", r"ValueError: \ud800 x"),
        ("fail_untellably", "_Untellable: its message cannot be told: RuntimeError in __str__"),
        ("fail_namelessly", "an exception without a name: it says"),
        ("fail_classlessly", "_OfNoClass: it says"),
    ],
)
def test_an_exception_that_cannot_be_told(shared_service: Service, version: str, function: str, detail: str) -> None:
    """The answer is `program_error` each time: no worker dies, and the program is not quarantined."""
    before = crashes(shared_service)
    program = shared_service.create(function, {})
    for _ in range(5):
        assert problem(shared_service.execute(program), 500, "program_error")["detail"] == detail
    assert crashes(shared_service) == before
    assert whole(shared_service, version)


@pytest.mark.parametrize(
    ("way", "status", "code"),
    [
        ("returns", 500, "invalid_outputs"),
        ("returns inside", 500, "invalid_outputs"),
        ("prints", 200, None),
        ("logs", 200, None),
    ],
)
def test_half_a_character(shared_service: Service, way: str, status: int, code: str | None) -> None:
    """A lone surrogate is refused as an output and escaped in the log; no worker dies."""
    before = crashes(shared_service)
    output = "object" if way == "returns inside" else "string"
    answer = shared_service.execute(
        shared_service.create("says_surrogates", {"way": "string"}, output), inputs={"way": way}
    )
    assert (answer.status_code, answer.json().get("code")) == (status, code), answer.text
    if way == "prints":
        wait_until(lambda: shared_service.log().count(r"printed \ud800") >= 2, "both lines are in the log")
    elif way == "logs":
        wait_until(lambda: r"logged \ud800" in shared_service.log(), "the line is in the log")
    assert crashes(shared_service) == before


@pytest.mark.parametrize("headers", [{}, EVENTS])
def test_half_a_character_as_progress(shared_service: Service, headers: dict[str, str]) -> None:
    """A lone surrogate as progress is a `program_error`, streamed or not."""
    before = crashes(shared_service)
    problem(shared_service.execute(shared_service.create("yields_surrogates", {}), headers), 500, "program_error")
    assert crashes(shared_service) == before


def test_bytes_are_printed_like_text(shared_service: Service) -> None:
    """By way of `sys.stdout.buffer`, and of its file descriptor."""
    answer = shared_service.execute(
        shared_service.create("prints_bytes", {"nonce": "string"}, "object"), inputs={"nonce": "bytes"}
    )
    assert answer.json()["outputs"] == {"result": {"encoding": "utf-8"}}, answer.text
    for line in ("bytes ä in two", r"bytes no text \xff", "bytes by a child"):
        wait_until(lambda line=line: line in shared_service.log(), f"{line!r} is in the log")  # type: ignore[misc]


def test_odd_log_records(shared_service: Service) -> None:
    """Own levels, and records with a fault, stop neither the program nor what is logged after them."""
    answer = shared_service.execute(shared_service.create("logs_oddly", {}))
    assert answer.json()["outputs"] == {"result": "logged"}, answer.text
    wait_until(lambda: "and on" in shared_service.log(), "the last line is in the log")
    assert "a level between" in shared_service.log()
    assert "Exception in callback" not in shared_service.log()


@pytest.mark.parametrize(("function", "status"), [("forks", 0), ("forks_and_fails", 1)])
def test_a_forked_child_does_not_answer(shared_service: Service, version: str, function: str, status: int) -> None:
    """A forked child ends at the end of the program, and the call's answer is the parent's."""
    answer = shared_service.execute(shared_service.create(function, {}))
    assert answer.json()["outputs"] == {"result": f"parent, whose child ended with {status}"}
    assert whole(shared_service, version)


def test_a_forked_child_has_no_progress(shared_service: Service) -> None:
    answer = shared_service.execute(shared_service.create("forks_and_yields", {}), EVENTS)
    assert answer.text.count("event: ") == 2, answer.text
    assert "child" not in answer.text
