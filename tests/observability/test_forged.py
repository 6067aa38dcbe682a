"""Programs that forge log lines or messages of their worker: only their own call suffers."""

import re
import subprocess
import sys

import pytest

from tests.conftest import StartService
from tests.service.test_errors import problem
from tests.service.test_faults import exits, whole
from tests.support.service import ROOT, Service
from tests.support.waiting import wait_until

CONTROLS = "\n\r\t\x00\x07\x08\x0b\x0c\x1b\x7f\x85\x9b\u2028\u2029\u202e\u200f"
FORGED = f"first{CONTROLS}2026-01-01T00:00:00Z [error    ] forged by a program"

NUL, ESC, HALF, NO_UTF8 = rb"\u0000", rb"\u001b[2J", rb"\ud800", b"\xff"
DONE = b'"op":"done","run_us":1'
FRAMES = {
    "outputs that are no UTF-8": (DONE, b'{"result":"%s"}' % NO_UTF8),
    "outputs with half a character": (DONE, b'{"result":"%s"}' % HALF),
    "outputs that are cut off": (DONE, b'{"result":'),
    "no outputs": (DONE, b""),
    "a time beyond any": (b'"op":"done","run_us":1%s' % (b"0" * 310), b"{}"),
    "a negative time": (b'"op":"done","run_us":-1', b"{}"),
    "tokens beyond any": (b'"op":"done","run_us":1,"usage":{"prompt_tokens":1%s}' % (b"0" * 310), b"{}"),
    "a span that is no UTF-8": (b'"op":"done","run_us":1,"spans":["%s"]' % NO_UTF8, b"{}"),
    "an event that is no UTF-8": (b'"op":"progress"', b'"%s"' % NO_UTF8),
    "an event with half a character": (b'"op":"progress"', b'"%s"' % HALF),
    "an error that is no UTF-8": (b'"op":"failed","run_us":1,"code":"program_error","detail":"%s"' % NO_UTF8, b""),
    "an error with half a character": (b'"op":"failed","run_us":1,"code":"program_error","detail":"%s"' % HALF, b""),
    "a pause beyond any": (b'"op":"failed","run_us":1,"code":"lm_error","detail":"","retry_after_s":1e308', b""),
    "a pause into the past": (b'"op":"failed","run_us":1,"code":"lm_error","detail":"","retry_after_s":-1', b""),
    "leftovers of another": (b'"op":"left","what":["threads"],"id":"of-another"', b""),
    "leftovers that are no list": (b'"op":"left","what":5', b""),
    "another generation": (b'"op":"done","run_us":1,"gen":1%s' % (b"0" * 310), b"{}"),
    "nothing that is known": (b'"op":"%s"' % NUL, b""),
}
LARGE = {
    "that are cut off": (b'{"result":"', b"x"),
    "that are no UTF-8": (b'{"result":"', NO_UTF8),
    "with a NUL behind them": (b"{}\x00", b"x"),
}
"""The beginnings of outputs that a thread looks at, and what follows a million times."""


def test_a_program_cannot_forge_a_line_of_the_console(start_service: StartService, version: str) -> None:
    """Printed, logged or raised: each line begins with the service's own time, and no control character is in it."""
    service = start_service(POOL_VERSION=version, LOG_FORMAT="console")
    for function, name in (("prints", "text"), ("fail", "message")):
        program = service.create(function, {name: "string"})
        service.execute(program, inputs={name: FORGED.replace("\x00", "")})
    wait_until(lambda: service.log().count("forged by a program") >= 5, "all of it is logged")
    lines = service.log().split("\n")
    assert not [line for line in lines if line.startswith("2026-01-01T00:00:00Z")]
    assert all(line.isprintable() for line in lines)


def test_a_programs_traceback_is_read_line_by_line(start_service: StartService, version: str) -> None:
    """On the console it follows its line, indented, so that no line of it can be taken for one of the log."""
    service = start_service(POOL_VERSION=version, LOG_FORMAT="console")
    program = service.create("fail", {"message": "string"})
    service.execute(program, inputs={"message": "one\n2026-01-01T00:00:00Z [error    ] forged by a program"})
    wait_until(lambda: "call failed" in service.log(), "all of it is logged")
    lines = service.log().splitlines()
    (first,) = [number for number, line in enumerate(lines) if "program raised" in line]
    (last,) = [number for number, line in enumerate(lines) if "call failed" in line]
    assert f"program_id={program}" in lines[first]
    told = lines[first + 1 : last]
    assert told[0] == "    Traceback (most recent call last):"
    assert any(line.startswith('      File "') and line.endswith(", in fail") for line in told)
    assert told[-2:] == ["    ValueError: one", "    2026-01-01T00:00:00Z [error    ] forged by a program"]
    assert all(line.startswith("    ") for line in told)


def test_any_line_of_the_console_is_printable() -> None:
    """Events, values, names of loggers and tracebacks; what is printable already stays as it is."""
    written = subprocess.run(
        [sys.executable, "-c", _LOGS, FORGED.replace("\x00", "")],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
        timeout=30,
    ).stderr
    assert all(line.isprintable() for line in written.split("\n"))
    assert not re.search(r"^2026-01-01", written, re.MULTILINE)
    assert written.count("forged by a program") == 5
    assert re.search(r"\] grün +\[x\]\n", written)


_LOGS = """
import logging, structlog, sys
from app.logs import configure_logs
configure_logs("console", "debug")
forged = sys.argv[1] if len(sys.argv) > 1 else ""
log = structlog.stdlib.get_logger("x")
log.info(forged)
log.info("value", value=forged)
log.info("values", values=[forged])
logging.getLogger("library").warning("library: %s", forged)
try:
    raise ValueError(forged)
except ValueError:
    log.exception("raised")
log.info("grün")
"""


@pytest.mark.parametrize("frame", FRAMES)
def test_a_forged_message_ends_its_own_worker_alone(shared_service: Service, version: str, frame: str) -> None:
    """The call ends with `worker_crashed`; background tasks and all other calls go on."""
    restarts = shared_service.metric("poolshift_background_restarts_total")
    before = exits(shared_service, version, "crash")
    program = shared_service.create("tests.support.programs:forges", {"body": "string", "payload": "string"})
    echo = shared_service.create("echo", {"nonce": "string"})
    body, payload = FRAMES[frame]
    inputs = {"body": body.decode("latin-1"), "payload": payload.decode("latin-1")}
    crashed = problem(shared_service.execute(program, inputs=inputs), 502, "worker_crashed")
    assert "protocol violation" in crashed["exit_cause"]
    assert exits(shared_service, version, "crash") == before + 1
    assert shared_service.execute(echo, inputs={"nonce": "a"}).json()["outputs"] == {"result": "a"}
    assert shared_service.client.get("/healthz").status_code == 200
    assert shared_service.metric("poolshift_background_restarts_total") == restarts
    wait_until(lambda: whole(shared_service, version), "all workers are back")


@pytest.mark.parametrize("outputs", LARGE)
def test_large_outputs_that_are_forged(shared_service: Service, version: str, outputs: str) -> None:
    """A megabyte that is not JSON is no answer either: the call ends with `worker_crashed`."""
    names = {"body": "string", "payload": "string", "end": "string", "repeat": "integer"}
    program = shared_service.create("tests.support.programs:forges", names)
    start, rest = LARGE[outputs]
    inputs = {"body": DONE.decode(), "payload": start.decode(), "end": rest.decode("latin-1"), "repeat": 1_000_000}
    crashed = problem(shared_service.execute(program, inputs=inputs), 502, "worker_crashed")
    assert "not JSON" in crashed["exit_cause"]
    wait_until(lambda: whole(shared_service, version), "all workers are back")


@pytest.mark.parametrize("text", [NUL, ESC])
def test_an_error_with_control_characters(shared_service: Service, version: str, text: bytes) -> None:
    """The answer has the error's text with NUL escaped, because no database accepts NUL."""
    before = exits(shared_service, version, "crash")
    body = b'"op":"failed","run_us":1,"code":"program_error","detail":"a%sb"' % text
    program = shared_service.create("tests.support.programs:forges_and_exits", {"body": "string"})
    answer = shared_service.execute(program, inputs={"body": body.decode("latin-1")})
    detail = problem(answer, 500, "program_error")["detail"]
    assert detail == ("a\\x00b" if text == NUL else "a\x1b[2Jb")
    assert "\x00" not in detail
    # The worker that says that it is free has yet to die: a call that it got meanwhile would be lost.
    wait_until(lambda: exits(shared_service, version, "crash") == before + 1, "the worker has ended")
    wait_until(lambda: whole(shared_service, version), "all workers are back")
