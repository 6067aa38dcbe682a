"""The events of a job as a stream that is taken up again after the connection is lost."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from tests.conftest import StartService
from tests.service.test_async_executions import ECHO, HOLD, end_of, running, start
from tests.service.test_errors import problem
from tests.support.service import Service
from tests.support.waiting import wait_until

STEPS_THEN_HOLD = {"directory": "string", "name": "string"}


class Event(NamedTuple):
    """An event as a client has it."""

    id: str | None
    name: str
    data: Any


def events(answer: httpx.Response) -> Iterator[Event]:
    """Parses a stream, heartbeats left out."""
    fields: dict[str, str] = {}
    for line in answer.iter_lines():
        if not line and fields:
            yield Event(fields.get("id"), fields["event"], json.loads(fields["data"]))
            fields = {}
        elif line and not line.startswith(":"):
            name, _, value = line.partition(": ")
            fields[name] = value


def stream(service: Service, place: str, last: str | None = None) -> list[Event]:
    """The whole stream, after the event `last`."""
    headers = {"Accept": "text/event-stream", **({} if last is None else {"Last-Event-ID": last})}
    with service.client.stream("GET", place, headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        return list(events(answer))


def test_a_stream_goes_on_where_it_was(shared_service: Service, tmp_path: Path) -> None:
    """A client that leaves amid the job ends nothing, and gets the rest, once: later, and again after the end."""
    service = shared_service
    program = service.create("steps_then_hold", STEPS_THEN_HOLD)
    place = start(service, program, {"directory": str(tmp_path), "name": "a"})
    seen: list[Event] = []
    with service.client.stream("GET", place, headers={"Accept": "text/event-stream"}) as answer:
        for event in events(answer):
            seen.append(event)
            if len(seen) == 2:
                break
    assert (seen[0].name, seen[0].data) == ("status", {"status": "running"})
    running(tmp_path, "a")
    (tmp_path / "go").touch()
    rest = stream(service, place, seen[-1].id)
    everything = stream(service, place)
    assert everything == seen + rest
    assert [event.id for event in everything[:-1]] == [str(number + 1) for number in range(len(everything) - 1)]
    assert everything[-1].id == "end"
    assert (everything[-1].name, everything[-1].data["outputs"]) == ("result", {"result": "a"})
    assert everything[-1].data == end_of(service, place)["result"]
    headers = {"Accept": "text/event-stream", "Last-Event-ID": "end"}
    assert service.client.get(place, headers=headers).status_code == 204
    assert stream(service, place, "1000") == stream(service, place, "nonsense") == everything
    problem(service.client.get("/executions/nothing", headers=headers), 404, "execution_not_found")


def test_every_end_ends_the_stream(shared_service: Service, tmp_path: Path) -> None:
    """An error, a cancellation, and the end of the session."""
    service = shared_service
    echo, hold = service.create("echo", ECHO), service.create("hold", HOLD)
    last = stream(service, start(service, echo, {"nonce": 1}))[-1]
    assert (last.id, last.name, last.data["code"]) == ("end", "error", "invalid_inputs")
    for name, expected in (("cancelled", "cancelled"), ("gone", "error")):
        session = {"session_id": "streamed"} if name == "gone" else {}
        place = start(service, hold, {"directory": str(tmp_path), "name": name}, **session)
        running(tmp_path, name)
        with service.client.stream("GET", place, headers={"Accept": "text/event-stream"}) as answer:
            told = events(answer)
            assert next(told).name == "status"
            service.client.delete(place if name == "cancelled" else "/sessions/streamed")
            assert list(told)[-1].name == expected


def test_what_is_no_longer_kept_is_said(shared_service: Service) -> None:
    """The buffer is bounded: a late client is told how many events it misses, and gets the others."""
    steps = shared_service.create("steps", {"count": "integer"}, "integer")
    place = start(shared_service, steps, {"count": 1000})
    end_of(shared_service, place)
    gap, *kept = stream(shared_service, place, "5")
    assert (gap.id, gap.name) == (None, "gap")
    assert kept[0].id == str(5 + gap.data["missed"] + 1)
    assert [event.data for event in kept[:-1]] == list(range(1000 - len(kept[:-1]), 1000))
    assert kept[-1].data["outputs"] == {"result": 1000}


def test_a_stream_through_a_shutdown_and_a_restart(start_service: StartService, tmp_path: Path) -> None:
    """SIGTERM: the stream ends with the job. After a kill the next service says that it has no events any more."""
    service = start_service(POOLS="v2", DRAIN_TIMEOUT_S=0.1)
    hold = service.create("hold", HOLD)
    place = start(service, hold, {"directory": str(tmp_path), "name": "a"})
    running(tmp_path, "a")
    with service.client.stream("GET", place, headers={"Accept": "text/event-stream"}) as answer:
        told = events(answer)
        assert next(told).name == "status"
        assert service.process is not None
        service.process.send_signal(signal.SIGTERM)
        last = list(told)[-1]
    assert (last.name, last.data["code"]) == ("error", "pool_closed")
    assert service.wait_for_end() == 0
    service.start()
    place = start(service, hold, {"directory": str(tmp_path), "name": "b"})
    running(tmp_path, "b")
    service.stop(signal.SIGKILL)
    service.start()
    wait_until(lambda: end_of(service, place)["status"] == "interrupted", "the job is marked")
    gap, last = stream(service, place, "1")
    assert (gap.name, gap.data, last.name) == ("gap", {"missed": None}, "interrupted")
