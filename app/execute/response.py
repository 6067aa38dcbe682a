"""The response to an execute call, with its headers as the lines in which HTTP/1.1 writes them."""

from collections.abc import Iterable
from typing import Final

from app.problems import Problem
from pools.calls import Call

Response = tuple[int, bytes, bytes]
"""Status; the lines of well-formed headers, each with its line break and the body's length among them; body."""
Rest = tuple[bytes | memoryview, ...]
"""The parts behind the beginning of a large body. No copy of them is made."""

CLOSE: Final = b"connection: close\r\n"
"""The line of a response after which the connection closes."""
_ANSWER: Final = b"%sx-execution-id: %s\r\nserver-timing: %s\r\n"
_JSON: Final = b"content-type: application/json\r\ncontent-length: %d\r\n"
_RESULT: Final = _ANSWER + _JSON


def lines_of(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Writes headers as lines."""
    return b"".join([b"%s: %s\r\n" % header for header in headers])


def headers_in(lines: bytes) -> list[tuple[bytes, bytes]]:
    """Reads the headers in lines that `lines_of` or this module's other functions have written."""
    headers = []
    for line in lines.split(b"\r\n")[:-1]:
        name, _, value = line.partition(b": ")
        headers.append((name, value))
    return headers


def answer_lines(version_lines: bytes, execution_id: str, call: Call | None, run_s: float) -> bytes:
    """Writes the headers of every answer; `run_s` is the time in the program, in seconds.

    `call` is None for one that has not waited yet.
    """
    return _ANSWER % (version_lines, execution_id.encode(), _server_timing(call, run_s))


def json_lines(size: int) -> bytes:
    """Writes the headers of a body of JSON of `size` bytes."""
    return _JSON % size


def result_lines(version_lines: bytes, execution_id: str, call: Call, run_s: float, size: int) -> bytes:
    """Writes the headers of a result of `size` bytes: those of every answer, and of JSON."""
    return _RESULT % (version_lines, execution_id.encode(), _server_timing(call, run_s), size)


def problem_lines(problem: Problem, size: int) -> bytes:
    """Writes the headers of a problem whose body has `size` bytes."""
    headers = [(name.encode(), value.encode()) for name, value in problem.headers().items()]
    return lines_of([*headers, (b"content-length", b"%d" % size)])


def _server_timing(call: Call | None, run_s: float) -> bytes:
    queued_s = 0.0 if call is None else call.queued_s
    timing = b"queue;dur=%.3f, run;dur=%.3f" % (queued_s * 1000, run_s * 1000)
    if call is not None and call.load_s > 0.0:
        timing += b", load;dur=%.3f" % (call.load_s * 1000)
    return timing
