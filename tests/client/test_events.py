"""The events of a stream, read from bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.execute.streaming import format_event
from poolshift.client import AnswerLost, Execution, OutputChunk, PoolshiftError, Progress, UnexpectedAnswer
from poolshift.client.events import Event, EventReader
from poolshift.client.problems import WorkerCrashed

RESULT = b'{"execution_id": "e", "program_id": "p", "pool_version": "v2", "outputs": {"a": 1}, "duration_ms": 1.5}'
EXECUTION = Execution(execution_id="e", program_id="p", pool_version="v2", outputs={"a": 1}, duration_ms=1.5)
WIRE = (
    b": heartbeat\n\n"
    + format_event("progress", b'{"done": "\\u00e4"}')
    + b'id: 7\r\nevent: output\r\ndata: {"field": "text",\r\ndata: "chunk": "a"}\r\n\r\n'
    + b"event: news of a later version\ndata: {}\n\n"
    + b"retry: 10\n\n"
    + format_event("progress", b"null")
    + format_event("result", RESULT)
    + format_event("progress", b'"after the end"')
)
EVENTS = [Progress({"done": "ä"}), OutputChunk("text", "a"), Progress(None), EXECUTION]


@given(st.lists(st.integers(0, len(WIRE)), max_size=12).map(sorted))
def test_pieces_of_any_size(cuts: list[int]) -> None:
    """The events are the same wherever the network cuts."""
    reader = EventReader()
    ends = [*cuts, len(WIRE)]
    pieces = [WIRE[start:end] for start, end in zip([0, *cuts], ends, strict=True)]
    events: list[Event] = [event for piece in pieces for event in reader.feed(piece)]
    assert events == EVENTS
    assert reader.result() == EXECUTION
    assert reader.last_id == "7"


def test_an_error_at_the_end() -> None:
    """The error is raised as the class of its code, after the events before it."""
    problem = b'{"code": "worker_crashed", "detail": "gone", "status": 502, "retry_safe": true, "execution_id": "e"}'
    reader = EventReader()
    events = reader.feed(format_event("progress", b"1") + format_event("error", problem))
    assert next(events) == Progress(1)
    with pytest.raises(WorkerCrashed) as raised:
        next(events)
    assert (raised.value.status, raised.value.retry_safe, raised.value.execution_id) == (502, True, "e")


def test_a_stream_that_breaks_off() -> None:
    """The end of the connection is not the end of the execution."""
    reader = EventReader()
    assert list(reader.feed(format_event("progress", b"1") + b"event: result\ndata: {")) == [Progress(1)]
    with pytest.raises(AnswerLost, match="before its last event"):
        reader.result()


@given(st.binary(max_size=200))
def test_garbage(piece: bytes) -> None:
    """Whatever comes is events or an error of the client."""
    reader = EventReader()
    try:
        list(reader.feed(b"event: result\n" + piece + b"\n\n"))
        reader.result()
    except (UnexpectedAnswer, AnswerLost):
        pass
    except PoolshiftError:
        raise AssertionError("garbage is no error of the service") from None


@pytest.mark.parametrize("data", [b"{}", b"nothing", b"\xff", b"[" * 100_000])
def test_an_event_that_is_none(data: bytes) -> None:
    """The kind of the event is named."""
    with pytest.raises(UnexpectedAnswer, match="'result' is not one of this version"):
        list(EventReader().feed(b"event: result\ndata: " + data + b"\n\n"))
