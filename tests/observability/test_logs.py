"""The log: which call each line is about, what a worker may fill it with, and what is never in it."""

import json
import secrets
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import StartService
from tests.observability.conftest import MODULES, PROGRAMS, log_lines
from tests.support.service import POOLSHIFT, ROOT, Service
from tests.support.waiting import wait_until

TRACE_ID = "1234567890abcdef1234567890abcdef"


def execute_in_a_trace(service: Service, program: str, flags: str, **body: Any) -> tuple[Any, str]:
    trace_id = secrets.token_hex(16)
    return service.execute(program, {"traceparent": f"00-{trace_id}-{secrets.token_hex(8)}-{flags}"}, **body), trace_id


@pytest.mark.parametrize("flags", ["00", "01"])
def test_what_a_program_says_is_logged_with_its_ids(traced_service: Service, flags: str) -> None:
    """stdout, stderr, logging and a child's output: each line has the program, the execution and the trace."""
    program = traced_service.create("prints", {"text": "string"})
    answer, trace_id = execute_in_a_trace(traced_service, program, flags, inputs={"text": flags})
    ids = {"execution_id": answer.headers["x-execution-id"], "program_id": program, "trace_id": trace_id}
    said = {("stdout", flags), ("stderr", flags), ("program", f"logged {flags}"), ("output", f"child {flags}")}
    wait_until(lambda: said == lines_of(traced_service, **ids), "exactly that is logged")


def lines_of(service: Service, **ids: str) -> set[tuple[str, str]]:
    return {(line["source"], line["event"]) for line in log_lines(service, **ids) if "source" in line}


@pytest.mark.parametrize("flags", ["00", "01"])
def test_a_failed_call_logs_one_line_of_the_services(traced_service: Service, version: str, flags: str) -> None:
    """A 5xx has one line with all that leads on from it; the program's traceback has the same ids."""
    program = traced_service.create("fail", {"message": "string"})
    answer, trace_id = execute_in_a_trace(traced_service, program, flags, inputs={"message": "what went wrong"})
    assert answer.status_code == 500
    execution_id = answer.headers["x-execution-id"]
    (line,) = log_lines(traced_service, event="call failed", execution_id=execution_id)
    assert line["code"] == "program_error"
    assert line["pool_version"] == version
    assert line["program_id"] == program
    assert line["trace_id"] == trace_id
    assert line["duration_ms"] > 0
    (raised,) = log_lines(traced_service, event="program raised", execution_id=execution_id)
    assert raised["trace_id"] == trace_id
    assert "what went wrong" in raised["traceback"]
    assert "reason" not in line


def test_outputs_that_do_not_fit_are_explained(traced_service: Service) -> None:
    """The program did not raise, so the call's own line names the field, and what is wrong with its value."""
    program = traced_service.create("echo", {"nonce": "string"}, "integer")
    answer = traced_service.execute(program, inputs={"nonce": "no number"})
    assert answer.json()["code"] == "invalid_outputs"
    (line,) = log_lines(traced_service, event="call failed", execution_id=answer.headers["x-execution-id"])
    assert (line["field"], line["reason"]) == ("result", answer.json()["detail"])
    assert "Expected `int`, got `str`" in line["reason"]
    assert "no number" not in line["reason"]


@pytest.mark.parametrize("flags", ["00", "01"])
def test_a_dead_worker_is_logged_with_the_call_it_died_under(traced_service: Service, flags: str) -> None:
    """From the line one finds the program, the answer and the trace."""
    program = traced_service.create("exits_hard", {"code": "integer"})
    answer, trace_id = execute_in_a_trace(traced_service, program, flags, inputs={"code": 3})
    ids = {"execution_id": answer.headers["x-execution-id"], "program_id": program, "trace_id": trace_id}
    (line,) = log_lines(traced_service, event="worker died", **ids)
    assert (line["cause"], line["exit"]) == ("crash", "exit code 3")


def test_the_clients_faults_and_good_calls_log_nothing(traced_service: Service) -> None:
    """At a thousand calls a second a line for each would be most of the cost."""
    program = traced_service.create("echo", {"nonce": "string"})
    good = traced_service.execute(program, inputs={"nonce": "a"})
    bad = traced_service.execute(program, inputs={"nonce": 1})
    assert (good.status_code, bad.status_code) == (200, 422)
    last = traced_service.execute(traced_service.create("fail", {"message": "string"}), inputs={"message": "a"})
    wait_until(lambda: bool(log_lines(traced_service, execution_id=last.headers["x-execution-id"])), "the last one is")
    for answer in (good, bad):
        assert log_lines(traced_service, execution_id=answer.headers["x-execution-id"]) == []


def test_a_program_that_prints_without_end(traced_service: Service, version: str, tmp_path: Path) -> None:
    """The log gets a part and the number of the rest; others are served meanwhile, and it ends when it is told."""
    program = traced_service.create(f"{PROGRAMS}:prints_until", {"path": "string"}, "integer")
    other = traced_service.create("echo", {"nonce": "string"})
    stop = tmp_path / "stop"
    before = traced_service.log_path.stat().st_size
    body = {"inputs": {"path": str(stop)}}
    with subprocess.Popen(
        [sys.executable, "-c", _POST, f"{traced_service.url}/programs/{program}/execute", json.dumps(body)],
        stdout=subprocess.PIPE,
    ) as caller:
        wait_until(lambda: bool(left_out(traced_service)), "the service says that it leaves out lines")
        assert traced_service.client.get("/healthz").status_code == 200
        if version == "v2":  # V1 serves one at a time
            assert traced_service.execute(other, inputs={"nonce": "a"}).status_code == 200
        stop.touch()
        output, _ = caller.communicate(timeout=20)
    printed = json.loads(output)["outputs"]["result"]
    wait_until(lambda: logged(traced_service) + left_out(traced_service) >= printed, "each line is counted")
    assert logged(traced_service) + left_out(traced_service) == printed
    assert left_out(traced_service) > logged(traced_service)
    assert traced_service.log_path.stat().st_size - before < 2**20


def test_requests_that_are_no_http_do_not_fill_the_log(start_service: StartService) -> None:
    """Anyone can send them, without a key: a few have their line, the others are counted."""
    service = start_service(LOG_FORMAT="json")
    sent, told = 0, "requests were malformed, without a line for each"

    def lines() -> int:
        return len(log_lines(service, event="Invalid HTTP request received."))

    def left_out() -> int:
        return sum(line["count"] for line in log_lines(service, event=told))

    while not left_out():
        for _ in range(100):
            with socket.create_connection(("127.0.0.1", service.port), timeout=20) as sock:
                sock.sendall(b"NOT HTTP\r\n\r\n")
                assert sock.recv(4096).startswith(b"HTTP/1.1 400")
            sent += 1
    wait_until(lambda: lines() + left_out() == sent, "each has its line or is counted")


_POST = """
import sys, urllib.request
url, body = sys.argv[1:]
request = urllib.request.Request(url, body.encode(), {"content-type": "application/json"})
print(urllib.request.urlopen(request).read().decode())
"""


def left_out(service: Service) -> int:
    return sum(line["count"] for line in log_lines(service, event="lines of a worker left out of the log"))


def logged(service: Service) -> int:
    return sum(line["event"].startswith("line ") for line in log_lines(service, source="stdout"))


def test_any_line_within_a_call_has_its_ids() -> None:
    """uvicorn's and a library's lines too; one that says itself what it is about keeps that; others have none."""
    written = subprocess.run(
        [sys.executable, "-c", _LOGS], cwd=ROOT, check=True, capture_output=True, text=True, timeout=30
    ).stderr
    lines = {line["event"]: line for line in map(json.loads, written.splitlines())}
    ids = {"execution_id": "e-1", "trace_id": TRACE_ID}
    assert "execution_id" not in lines["before"]
    assert ids.items() <= lines["uvicorn says"].items()
    assert lines["uvicorn says"]["logger"] == "uvicorn.error"
    assert ids.items() <= lines["the service says"].items()
    assert lines["of another"]["execution_id"] == "e-2"
    assert "trace_id" not in lines["of another"]
    assert "ValueError: wrong" in lines["it raised"]["exception"]
    assert "too quiet" not in lines


_LOGS = f"""
import logging, structlog
from types import SimpleNamespace
from app.logs import configure_logs, current_call
configure_logs("json", "warning")
log = structlog.stdlib.get_logger("poolshift")
log.warning("before")
current_call.set(SimpleNamespace(execution_id="e-1", trace_id="{TRACE_ID}"))
logging.getLogger("uvicorn.error").error("uvicorn says")
log.warning("the service says")
log.warning("of another", execution_id="e-2")
log.info("too quiet")
try:
    raise ValueError("wrong")
except ValueError:
    log.exception("it raised")
"""


def test_no_secret_is_ever_logged(start_service: StartService, tmp_path: Path) -> None:
    """Neither a client's key, good or bad, nor a collector's header, nor anything of the kind, whatever goes wrong."""
    key = create_key(tmp_path)
    wrong, header = f"psk_{secrets.token_hex(16)}", secrets.token_hex(16)
    service = start_service(
        API_KEYS_FILE=tmp_path / "keys.yaml",
        LOG_LEVEL="debug",
        LOG_FORMAT="json",
        PROGRAM_MODULES=MODULES,
        OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1",
        OTEL_EXPORTER_OTLP_HEADERS=f"authorization={header}",
        OTEL_TRACES_SAMPLER="always_on",
        OTEL_BSP_SCHEDULE_DELAY=20,
        OTEL_EXPORTER_OTLP_TIMEOUT=0.2,
    )
    assert service.execute("nobody", {"authorization": f"Bearer {wrong}"}).status_code == 401
    service.client.headers["x-api-key"] = key
    program = service.create("environment", {}, "object", outputs=[{"name": "environment", "type": "object"}])
    assert key not in service.execute(program).text
    assert header not in service.execute(program).text
    assert service.execute(service.create("fail", {"message": "string"}), inputs={"message": "a"}).status_code == 500
    wait_until(lambda: "Failed to export" in service.log(), "the exporter has complained")
    assert service.stop() == 0
    for secret in (key, wrong, header):
        assert secret not in service.log()


def create_key(directory: Path) -> str:
    """An admin's key, made as an operator makes it."""
    made = subprocess.run(
        [*POOLSHIFT, "keys", "create", "--name", "tests", "--scope", "admin", "--file", str(directory / "keys.yaml")],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
        timeout=30,
    ).stdout
    return next(word for word in made.split() if word.startswith("psk_"))


def test_a_database_that_is_not_there_does_not_tell_its_password(tmp_path: Path) -> None:
    """The start fails, and what it says has neither the password nor the URL with it."""
    password = secrets.token_hex(16)
    service = Service(tmp_path, DATABASE_URL=f"postgresql+asyncpg://poolshift:{password}@127.0.0.1:1/poolshift")
    service.start(wait=False)
    assert service.wait_for_end() != 0
    service.close()
    assert service.log()
    assert password not in service.log()
