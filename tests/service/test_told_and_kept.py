"""Nothing is told that a crash can take back: a service that is killed as an answer arrives gives that answer again.

The write lock of the database, which another process holds as a backup may do, keeps the service from writing an end.
So an answer that is told before its write is always told too early, whatever the machine does meanwhile.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import StartService
from tests.service.test_async_executions import ASYNC, ECHO, HOLD, running, show, start
from tests.service.test_idempotency import held, keyed
from tests.service.test_job_streams import events
from tests.support.database import write_locked
from tests.support.service import Service
from tests.support.waiting import wait_until

CLIENTS = 6
ROUNDS = 4
_EVENTS = {"Accept": "text/event-stream"}
Ask = Callable[[], Any]
"""Asks a service once; returns the answer if it is the one that counts, else None."""


class _Crowd:
    """Clients that ask until one of them has the answer, and kill the service in that moment."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._one_tells = threading.Lock()
        self._has_told = threading.Event()
        self._is_over = threading.Event()
        self.told: Any = None

    @contextmanager
    def asking(self, *ways: Ask) -> Iterator[None]:
        """Asks in each of these ways during the block; afterwards until somebody has been told."""
        with ThreadPoolExecutor(len(ways)) as clients:
            asked = [clients.submit(self._ask, ask) for ask in ways]
            try:
                yield
                assert self._has_told.wait(60), "nobody has been told"
            finally:
                self._is_over.set()
            for one in asked:
                one.result()

    def _ask(self, ask: Ask) -> None:
        while not self._is_over.is_set():
            try:
                answer = ask()
            except httpx.TransportError:  # it has been killed
                return
            if answer is not None:
                self._tell(answer)
                return

    def _tell(self, answer: Any) -> None:
        with self._one_tells:
            if not self._has_told.is_set():
                self._service.stop(signal.SIGKILL)
                self.told = answer
                self._has_told.set()


def _ends_unwritten(service: Service, tmp_path: Path) -> None:
    """Lets the program end. Its workers are idle then, and nothing of it can have been written."""
    (tmp_path / "go").touch()
    wait_until(lambda: _is_gone_or_idle(service), "the program has ended")


def _is_gone_or_idle(service: Service) -> bool:
    try:
        return bool(service.pool("v2")["busy"] == 0)
    except httpx.TransportError:
        return True


def _database(service: Service) -> Path:
    return service.directory / "poolshift.db"


def _again(service: Service, tmp_path: Path) -> None:
    (tmp_path / "go").unlink()
    service.wait_for_end()
    service.start()


@pytest.mark.parametrize("form", ["execute", "batch"])
def test_an_answer_to_a_key_outlives_the_service(start_service: StartService, tmp_path: Path, form: str) -> None:
    """Six clients send one key; whoever has the answer first, each of them has the same after the restart."""
    service = start_service(POOLS="v2")
    hold = service.create("hold", HOLD)
    for number in range(ROUNDS):
        name, headers = f"{form}-{number}", keyed()
        inputs: Any = held(tmp_path, name)
        body = {"inputs": [inputs] if form == "batch" else inputs}

        def ask(headers: dict[str, str] = headers, body: dict[str, Any] = body) -> bytes | None:
            answer = service.client.post(f"/programs/{hold}/{form}", json=body, headers=headers)
            assert answer.status_code in (200, 409, 503), answer.text
            return answer.content if answer.status_code == 200 else None

        crowd = _Crowd(service)
        with crowd.asking(*[ask] * CLIENTS):
            running(tmp_path, name)
            with write_locked(_database(service)):
                _ends_unwritten(service, tmp_path)
        _again(service, tmp_path)
        assert ask() == crowd.told
        assert len(list(tmp_path.glob(f"{name}.*"))) == 1


@pytest.mark.parametrize("reader", ["look", "stream", "list"])
def test_a_jobs_end_outlives_the_service(start_service: StartService, tmp_path: Path, reader: str) -> None:
    """Six clients look at one job, read its events, or list all jobs."""
    service = start_service(POOLS="v2")
    hold = service.create("hold", HOLD)
    for number in range(1 if reader == "stream" else ROUNDS):
        place = start(service, hold, held(tmp_path, str(number)))
        crowd = _Crowd(service)
        ask = {"look": _look, "stream": _last_event, "list": _listed}[reader]
        with crowd.asking(*[lambda place=place, ask=ask: ask(service, place)] * CLIENTS):
            running(tmp_path, str(number))
            with write_locked(_database(service)):
                _ends_unwritten(service, tmp_path)
                if reader == "stream":  # its last event comes with the write, or with the write's failure
                    wait_until(lambda: "a job's end is kept in memory" in service.log(), "the end cannot be written")
        _again(service, tmp_path)
        shown = show(service, place)
        assert (shown["status"], shown["result"]["outputs"]) == ("succeeded", {"result": str(number)})
        assert ask(service, place) == crowd.told


def _look(service: Service, place: str) -> dict[str, Any] | None:
    shown = show(service, place)
    return shown if shown["status"] not in ("queued", "running") else None


def _listed(service: Service, place: str) -> dict[str, Any] | None:
    items = service.client.get("/executions").json()["items"]
    job: dict[str, Any] = next(one for one in items if place.endswith(one["execution_id"]))
    return job if job["status"] not in ("queued", "running") else None


def _last_event(service: Service, place: str) -> Any:
    with service.client.stream("GET", place, headers=_EVENTS) as answer:
        return next((event for event in events(answer) if event.id == "end"), None)


def test_a_cancellation_outlives_the_service(start_service: StartService, tmp_path: Path) -> None:
    """A cancellation that DELETE or GET has told of is there after the restart."""
    service = start_service(POOLS="v2")
    hold = service.create("hold", HOLD)
    for number in range(ROUNDS):
        place = start(service, hold, held(tmp_path, str(number)))
        running(tmp_path, str(number))

        def cancel(place: str = place) -> dict[str, Any] | None:
            answer = service.client.delete(place)
            assert answer.status_code in (200, 503), answer.text
            cancelled: dict[str, Any] = answer.json()
            return cancelled if cancelled.get("status") == "cancelled" else None

        crowd = _Crowd(service)
        with write_locked(_database(service)) as lock:
            looks = [lambda place=place: _look(service, place)] * (CLIENTS - 1)
            with crowd.asking(cancel, *looks):
                wait_until(lambda: _is_gone_or_idle(service), "the program has ended")
                lock.release()
        service.wait_for_end()
        service.start()
        assert show(service, place) == crowd.told
        assert crowd.told["status"] == "cancelled"


def test_a_job_that_runs_is_stored_as_it_is_shown(start_service: StartService, tmp_path: Path) -> None:
    """The beginning and the version of a job are not taken back either, though the crash ends the job itself."""
    service = start_service(POOLS="v2")
    place = start(service, service.create("hold", HOLD), held(tmp_path, "a"))
    running(tmp_path, "a")
    wait_until(lambda: show(service, place)["status"] == "running", "it is shown that it runs")
    shown = show(service, place)
    service.stop(signal.SIGKILL)
    service.start()
    ended = show(service, place)
    assert ended["status"] == "interrupted"
    told = ("created_at", "started_at", "pool_version")
    assert {name: ended[name] for name in told} == {name: shown[name] for name in told}


def test_a_job_with_a_key_is_there_after_the_answer(start_service: StartService, tmp_path: Path) -> None:
    """202 and its repetition name a job that the database has."""
    service = start_service(POOLS="v2")
    hold, headers = service.create("hold", HOLD), keyed(**ASYNC)
    first = service.execute(hold, headers, inputs=held(tmp_path, "a"))
    service.stop(signal.SIGKILL)
    service.start()
    again = service.execute(hold, headers, inputs=held(tmp_path, "a"))
    assert (again.status_code, again.content) == (202, first.content)
    assert show(service, first.headers["location"])["created_at"] == first.json()["created_at"]


def test_plain_calls_wait_for_no_write(start_service: StartService, tmp_path: Path) -> None:
    """While calls with keys wait for their writes, others are answered; then each of the waiting has its answer."""
    service = start_service(POOLS="v2")
    hold, echo = service.create("hold", HOLD), service.create("echo", ECHO)
    (tmp_path / "go").touch()
    service.execute(hold, inputs=held(tmp_path, "first"))
    with ThreadPoolExecutor(3) as clients:
        (tmp_path / "go").unlink()
        calls = [
            clients.submit(service.execute, hold, keyed(), inputs=held(tmp_path, name), timeout_s=20)
            for name in ("a", "b")
        ]
        for name in ("a", "b"):
            running(tmp_path, name)
        with write_locked(_database(service)):
            _ends_unwritten(service, tmp_path)
            answers = [service.execute(echo, inputs={"nonce": str(number)}) for number in range(50)]
            assert not any(call.done() for call in calls)
        assert [answer.status_code for answer in answers] == [200] * 50
        assert {call.result().status_code for call in calls} == {200}
