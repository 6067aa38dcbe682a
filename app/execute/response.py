"""The response to an execute call, with its headers as the lines in which HTTP/1.1 writes them."""

from collections.abc import Iterable
from typing import Final

import msgspec

from app.problems import Problem
from pools.calls import Call, Program, Result

Response = tuple[int, bytes, bytes]
"""Status; the lines of well-formed headers, each with its line break and the body's length among them; body."""
Rest = tuple[bytes | memoryview, ...]
"""The parts behind the beginning of a large body. No copy of them is made."""

CLOSE: Final = b"connection: close\r\n"
"""The line of a response after which the connection closes."""
_ANSWER: Final = b"%sx-execution-id: %s\r\nserver-timing: %s\r\n"
_JSON: Final = b"content-type: application/json\r\ncontent-length: "
_LINE_END: Final = b"\r\n"
_THOUSANDTHS: Final = [b".%03d" % number for number in range(1000)]
_WHOLE: Final = [b"%d" % number for number in range(1000)]
_encode: Final = msgspec.json.Encoder().encode


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
    timing = b"queue;dur=%b, run;dur=%b" % (milliseconds(0.0 if call is None else call.queued_s), milliseconds(run_s))
    if call is not None and call.load_s > 0.0:
        timing += _load_timing(call)
    return _ANSWER % (version_lines, execution_id.encode(), timing)


def json_lines(size: int) -> bytes:
    """Writes the headers of a body of JSON of `size` bytes."""
    return b"%b%d\r\n" % (_JSON, size)


def result_lines(version_lines: bytes, execution_id: bytes, call: Call, run_s: float, size: int) -> bytes:
    """Writes the headers of a result of `size` bytes: those of every answer, and of JSON."""
    return b"".join(
        (
            version_lines,
            b"x-execution-id: ",
            execution_id,
            b"\r\nserver-timing: queue;dur=",
            milliseconds(call.queued_s),
            b", run;dur=",
            milliseconds(run_s),
            _load_timing(call) if call.load_s > 0.0 else b"",
            _LINE_END,
            _JSON,
            str(size).encode(),
            _LINE_END,
        )
    )


def around_outputs(
    execution_id: bytes, program: Program, version: bytes, result: Result, seconds: float
) -> tuple[bytes, bytes]:
    """Writes a result's JSON up to its outputs, which are JSON already, and from their end on.

    `seconds` is the time from the request to the answer.
    """
    start = b"".join(
        (
            b'{"execution_id":"',
            execution_id,
            b'","program_id":',
            program.id_as_json,
            b',"pool_version":"',
            version,
            b'","outputs":',
        )
    )
    duration = milliseconds(seconds)
    if result.usage is None:
        return start, b"".join((b',"duration_ms":', duration, b"}"))
    return start, b"".join((b',"duration_ms":', duration, b',"usage":', _encode(result.usage), b"}"))


def milliseconds(seconds: float) -> bytes:
    """Writes a time in milliseconds, with three digits behind the point."""
    us = int(seconds * 1e6 + 0.5)
    ms = us // 1000
    return (_WHOLE[ms] if 0 <= ms < 1000 else b"%d" % ms) + _THOUSANDTHS[us % 1000]


def _load_timing(call: Call) -> bytes:
    return b", load;dur=" + milliseconds(call.load_s)


def problem_lines(problem: Problem, size: int) -> bytes:
    """Writes the headers of a problem whose body has `size` bytes."""
    headers = [(name.encode(), value.encode()) for name, value in problem.headers().items()]
    return lines_of([*headers, (b"content-length", b"%d" % size)])
