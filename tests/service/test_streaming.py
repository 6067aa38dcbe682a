"""Streaming: events as they come, one end, and no client that can hold up anyone but itself."""

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import httpx
import msgspec
import psutil
import pytest

from app.execute.response import Response
from app.execute.streaming import MAX_EVENTS, EventBuffer, EventStream, asks_for_events
from tests.conftest import StartService
from tests.service.test_errors import problem
from tests.service.test_faults import busy, exits, whole
from tests.support.replicas import COUNT
from tests.support.service import Service, is_alive
from tests.support.waiting import wait_until

EVENTS = {"Accept": "text/event-stream"}
ECHO = {"nonce": "string"}


def parse(text: str) -> list[tuple[str, Any]]:
    """The events of a stream, as names and values; comments are skipped."""
    events = []
    for block in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if lines:
            events.append((lines["event"], json.loads(lines["data"])))
    return events


def stream(service: Service, program_id: str, inputs: dict[str, Any], **body: Any) -> list[tuple[str, Any]]:
    """All events of one execution."""
    answer = service.execute(program_id, EVENTS, inputs=inputs, **body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/event-stream"
    return parse(answer.text)


class RawClient:
    """A client that reads only when it is told to."""

    def __init__(self, service: Service, program_id: str, inputs: dict[str, Any], **body: Any) -> None:
        content = json.dumps({"inputs": inputs, **body}).encode()
        self._socket = socket.create_connection(("127.0.0.1", service.port), timeout=20)
        self._socket.sendall(
            b"POST /programs/%s/execute HTTP/1.1\r\nhost: localhost\r\naccept: text/event-stream\r\n"
            b"connection: close\r\ncontent-length: %d\r\n\r\n%s" % (program_id.encode(), len(content), content)
        )

    def read(self) -> list[tuple[str, Any]]:
        """Everything that is left, to the end."""
        received = b"".join(iter(lambda: self._socket.recv(1 << 20), b""))
        self.close()
        head, _, rest = received.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        return parse(_unchunked(rest).decode())

    def close(self) -> None:
        self._socket.close()


def _unchunked(data: bytes) -> bytes:
    services: list[bytes] = []
    at = 0
    while True:
        end = data.index(b"\r\n", at)
        length = int(data[at:end], 16)
        if length == 0:
            return b"".join(services)
        services.append(data[end + 2 : end + 2 + length])
        at = end + 2 + length + 2


def test_progress_comes_before_the_result(shared_service: Service, version: str) -> None:
    """The events are the generator's values in their order, then the body of a JSON answer."""
    program = shared_service.create("steps", {"count": "integer"}, "integer")
    labels = {"pool_version": version, "operation": "stream", "outcome": "ok"}
    before = shared_service.metric("poolshift_requests_total", **labels)
    answer = shared_service.execute(program, EVENTS, inputs={"count": 200}, session_id="listener")
    assert answer.headers["x-pool-version"] == version
    *progress, (last, result) = parse(answer.text)
    assert progress == [("progress", number) for number in range(200)]
    assert last == "result"
    assert result["outputs"] == {"result": 200}
    assert result["execution_id"] == answer.headers["x-execution-id"]
    assert result.keys() == shared_service.execute(program, inputs={"count": 1}).json().keys()
    assert shared_service.metric("poolshift_requests_total", **labels) == before + 1


def test_a_program_without_progress_has_a_result_alone(shared_service: Service) -> None:
    program = shared_service.create("echo", ECHO)
    (event,) = stream(shared_service, program, {"nonce": "a\nb"})
    assert (event[0], event[1]["outputs"]) == ("result", {"result": "a\nb"})


def test_an_error_before_the_first_event_keeps_its_status(shared_service: Service, version: str) -> None:
    """The answer is the same problem response as without events."""
    echo = shared_service.create("echo", ECHO)
    fails = shared_service.create("fail", {"message": "string"})
    problem(shared_service.execute("nothing", EVENTS), 404, "program_not_found")
    problem(shared_service.execute(echo, EVENTS, inputs={"nonce": 1}), 422, "invalid_inputs")
    problem(shared_service.execute(echo, EVENTS, surprise=1), 422, "invalid_request")
    problem(shared_service.execute(fails, EVENTS, inputs={"message": "no"}), 500, "program_error")
    assert shared_service.metric("poolshift_errors_total", pool_version=version, code="program_error") > 0
    assert shared_service.metric("poolshift_requests_total", operation="stream", outcome="program_not_found") > 0


def test_an_error_after_events_is_the_last_event(shared_service: Service) -> None:
    """Status 200 has gone out already; the event has the whole problem."""
    program = shared_service.create("steps_then_fail", {"count": "integer"})
    *progress, (last, body) = stream(shared_service, program, {"count": 3})
    assert progress == [("progress", number) for number in range(3)]
    assert last == "error"
    assert (body["code"], body["status"]) == ("program_error", 500)
    assert "out of steps" in body["detail"]


@pytest.mark.parametrize("idempotent", [False, True])
def test_a_crash_after_events_is_not_tried_again(shared_service: Service, tmp_path: Path, idempotent: bool) -> None:
    """Nobody hears the same events twice: whether to start anew is for the client to decide."""
    inputs = {"directory": "string", "count": "integer"}
    program = shared_service.create("steps_then_crash", inputs, idempotent=idempotent)
    *progress, (last, body) = stream(shared_service, program, {"directory": str(tmp_path), "count": 3})
    assert progress == [("progress", number) for number in range(3)]
    assert (last, body["code"], body["retry_safe"]) == ("error", "worker_crashed", idempotent)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_crash_before_the_first_event_is_tried_again(shared_service: Service, tmp_path: Path) -> None:
    program = shared_service.create("crashes_once", {"directory": "string"}, idempotent=True)
    (event,) = stream(shared_service, program, {"directory": str(tmp_path)})
    assert (event[0], event[1]["outputs"]) == ("result", {"result": "second time"})


def test_too_large_an_event_is_the_programs_error(shared_service: Service) -> None:
    """Streamed or not, and its worker serves on."""
    program = shared_service.create("big_step", {"size": "integer"}, "integer")
    for headers in ({}, EVENTS):
        body = problem(shared_service.execute(program, headers, inputs={"size": 2_000_000}), 500, "program_error")
        assert "over the limit" in body["detail"]
    assert shared_service.execute(program, inputs={"size": 1000}).status_code == 200


def test_a_client_that_leaves_has_its_program_killed(shared_service: Service, version: str, tmp_path: Path) -> None:
    program = shared_service.create("steps_then_hold", {"directory": "string", "name": "string"})
    before = exits(shared_service, version, "cancelled")
    inputs = {"inputs": {"directory": str(tmp_path), "name": "left"}}
    url = f"{shared_service.url}/programs/{program}/execute"
    with httpx.stream("POST", url, json=inputs, headers=EVENTS, timeout=20) as answer:
        lines = answer.iter_lines()  # kept: the connection closes with it
        pid = int(next(line for line in lines if line.startswith("data")).removeprefix("data: "))
        assert is_alive(pid)
    wait_until(lambda: not is_alive(pid), "the program of the client that left is dead")
    wait_until(lambda: exits(shared_service, version, "cancelled") == before + 1, "its worker was killed for that")
    wait_until(lambda: whole(shared_service, version), "all workers are back")


MANY = {"path": "string", "count": "integer", "size": "integer"}


def steps_of(written: Path) -> int:
    """Returns the program's last step; waits while the program writes the file again."""
    while not (text := written.read_text()):
        pass
    return int(text)


def test_a_slow_client_holds_up_nobody_else(shared_service: Service, version: str, tmp_path: Path) -> None:
    """The slow client's program waits, the service buffers little, other calls are served, and no event is lost."""
    assert shared_service.process is not None
    process = psutil.Process(shared_service.process.pid)
    echo = shared_service.create("echo", ECHO)
    many = shared_service.create("many_steps", MANY, "integer")
    count, size, written = 500, 100_000, tmp_path / "written"  # 50 MB
    shared_service.execute(echo, inputs={"nonce": "warm"})
    before = process.memory_info().rss
    client = RawClient(shared_service, many, {"path": str(written), "count": count, "size": size})
    wait_until(written.exists, "the program runs")
    for number in range(100):
        answer = shared_service.execute(echo, inputs={"nonce": str(number)})
        assert answer.json()["outputs"] == {"result": str(number)}
    assert steps_of(written) < count // 2
    assert busy(shared_service, version) == 1
    assert process.memory_info().rss - before < 20_000_000

    *progress, (last, result) = client.read()
    assert [value["number"] for _, value in progress] == list(range(count))
    assert (last, result["outputs"]) == ("result", {"result": count})
    assert process.memory_info().rss - before < 30_000_000
    wait_until(lambda: whole(shared_service, version), "the worker is free")


def test_slow_clients_do_not_wait_for_each_other(start_service: StartService, version: str, tmp_path: Path) -> None:
    """Each gets all of its events when it reads on, in whatever order they do."""
    workers = 2 * COUNT  # whichever replica each comes to
    service = start_service(POOL_VERSION=version, V1_POOL_SIZE=workers, V2_POOL_SIZE=workers)
    many = service.create("many_steps", MANY, "integer")
    paths = [tmp_path / f"written-{number}" for number in range(2)]
    clients = [RawClient(service, many, {"path": str(path), "count": 200, "size": 100_000}) for path in paths]
    wait_until(lambda: all(path.exists() for path in paths), "both have begun, though neither is read")
    for client in reversed(clients):
        assert len(client.read()) == 201


def test_streams_that_nobody_reads_give_their_workers_back(
    start_service: StartService, version: str, tmp_path: Path
) -> None:
    """They hold every worker until others wait: then one is ended for each of those, and its client is told."""
    service = start_service(POOL_VERSION=version, CHECKOUT_TIMEOUT_S=25)
    echo = service.create("echo", ECHO)
    many = service.create("many_steps", MANY, "integer")
    paths = [tmp_path / f"written-{number}" for number in range(2)]
    clients = [RawClient(service, many, {"path": str(path), "count": 400, "size": 100_000}) for path in paths]
    wait_until(lambda: all(path.exists() for path in paths), "both have begun")
    assert service.execute(echo, inputs={"nonce": "a"}).json()["outputs"] == {"result": "a"}
    wait_until(lambda: exits(service, version, "cancelled") == 1, "one of them was ended for that")
    wait_until(lambda: busy(service, version) == 1, "the other goes on")
    ends = sorted(client.read()[-1][0] for client in clients)
    assert ends == ["error", "result"]
    assert service.metric("poolshift_errors_total", pool_version=version, code="execution_timeout") == 1
    wait_until(lambda: whole(service, version), "all workers are free")


def test_the_deadline_ends_a_stream_that_nobody_reads(shared_service: Service, version: str, tmp_path: Path) -> None:
    """The worker is free again, and the client, when it reads at last, is told."""
    many = shared_service.create("many_steps", MANY, "integer")
    before = exits(shared_service, version, "timeout")
    inputs = {"path": str(tmp_path / "written"), "count": 2000, "size": 100_000}
    client = RawClient(shared_service, many, inputs, timeout_s=1)
    wait_until(lambda: exits(shared_service, version, "timeout") == before + 1, "the deadline has killed the worker")
    wait_until(lambda: whole(shared_service, version), "all workers are back")
    *progress, (last, body) = client.read()
    assert [value["number"] for _, value in progress] == list(range(len(progress)))
    assert (last, body["code"]) == ("error", "execution_timeout")


def test_a_silent_stream_begins_and_outlives_a_sigterm(
    start_service: StartService, version: str, tmp_path: Path
) -> None:
    """The answer begins though the program says nothing, and a drain waits for its end."""
    service = start_service(POOL_VERSION=version)
    program = service.create("hold", {"directory": "string", "name": "string"})
    inputs = {"inputs": {"directory": str(tmp_path), "name": "silent"}}
    with service.client.stream("POST", f"/programs/{program}/execute", json=inputs, headers=EVENTS) as answer:
        assert answer.status_code == 200
        assert not (tmp_path / "go").exists()
        assert service.process is not None
        service.process.terminate()
        wait_until(lambda: "draining" in service.log(), "the service drains")
        (tmp_path / "go").touch()
        (event,) = parse("\n".join(answer.iter_lines()))
    assert (event[0], event[1]["outputs"]) == ("result", {"result": "silent"})
    assert service.wait_for_end() == 0


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (b"text/event-stream", True),
        (b"Text/Event-Stream", True),
        (b"application/json, text/event-stream", True),
        (b"text/event-stream;q=0.5, application/json;q=0.4", True),
        (b"text/event-stream; q=0.5, application/json", False),
        (b"text/event-stream;q=0", False),
        (b"text/event-stream;q=x", True),
        (b"text/event-streams", False),
        (b"*/*", False),
    ],
)
def test_who_gets_events(accept: bytes, expected: bool) -> None:
    """Clients get events if they name them and prefer nothing else."""
    assert asks_for_events(accept) is expected


class _Source:
    """Counts the pauses that are in force."""

    def __init__(self) -> None:
        self.paused = 0

    def pause(self) -> None:
        self.paused += 1

    def resume(self) -> None:
        self.paused -= 1


@pytest.mark.anyio
async def test_heartbeats_keep_a_silent_stream_alive() -> None:
    """As long as nothing comes; the end comes at once all the same."""
    release = asyncio.Event()
    sent: list[bytes] = []

    async def outcome() -> Response:
        await release.wait()
        return 200, b"", b'{"outputs":{}}'

    async def send(message: Any) -> None:
        sent.append(message.get("body", b""))
        if sent.count(b": heartbeat\n\n") == 3:
            release.set()

    events = EventBuffer()
    stream = EventStream(events, asyncio.ensure_future(outcome()), bytes, send, heartbeat_s=0.01)
    async with asyncio.timeout(20):
        assert await stream.run() is None
    assert sent == [b"", *[b": heartbeat\n\n"] * 3, b'event: result\ndata: {"outputs":{}}\n\n']
    assert stream.bytes_sent == sum(map(len, sent))


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("count", "paused"), [(0, 0), (1, 0), (MAX_EVENTS - 1, 0), (MAX_EVENTS, 1), (MAX_EVENTS + 1, 1)]
)
async def test_a_full_buffer_pauses_its_source(count: int, paused: int) -> None:
    """At the limit and once only; emptied, it lets it go on."""
    source = _Source()
    events = EventBuffer()
    events.began(source)
    for number in range(count):
        events.put("output", msgspec.Raw(str(number).encode()))
    assert source.paused == paused
    taken = b""
    while part := events.take():
        taken += part
    assert taken.count(b"event: output\n") == count
    assert source.paused == 0
