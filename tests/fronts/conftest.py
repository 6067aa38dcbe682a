"""A service with two fronts, and clients whose calls the fronts run by themselves."""

from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.support.service import Service
from tests.support.waiting import wait_until

FRONTS = 2
ECHO = {"nonce": "string"}


class Fronted(Service):
    """A service with fronts, all of whose calls go to V2."""

    def __init__(self, directory: Path, **settings: Any) -> None:
        super().__init__(directory, **{"WEB_CONCURRENCY": FRONTS, "CANARY_PERCENT": 100, **settings})
        self.clients: list[httpx.Client] = []
        """Two for each front, in turns, each with one connection."""

    def front_pids(self) -> list[int]:
        """Returns the processes of the fronts."""
        assert self.process is not None
        pids = []
        for child in psutil.Process(self.process.pid).children():
            with suppress(psutil.NoSuchProcess):  # or a zombie
                if "app.fronts.front" in child.cmdline():
                    pids.append(child.pid)
        return pids

    def direct_calls(self) -> float:
        """Returns the number of calls that fronts have run by themselves."""
        return self.metric("poolshift_front_calls_total")

    def connect(self, count: int = 2 * FRONTS) -> None:
        """Connects more clients: a connection goes to the front that has the fewest."""
        for _ in range(count):
            client = httpx.Client(base_url=self.url, timeout=600, limits=httpx.Limits(max_connections=1))
            self.clients.append(client)
            client.post("/programs/none/execute", json={"inputs": {}})

    def close(self) -> None:
        """Ends it, and its clients."""
        for client in self.clients:
            client.close()
        super().close()


def call(client: httpx.Client, program: str, inputs: dict[str, Any], **headers: str) -> httpx.Response:
    """Calls a program by a connection."""
    return client.post(f"/programs/{program}/execute", json={"inputs": inputs}, headers=headers)


def become_direct(service: Fronted, program: str, inputs: dict[str, Any], **headers: str) -> None:
    """Calls a program until the front of each client runs its calls by itself."""
    for client in service.clients:

        def is_direct(client: httpx.Client = client) -> bool:
            before = service.direct_calls()
            assert call(client, program, inputs, **headers).status_code == 200
            return service.direct_calls() == before + 1

        wait_until(is_direct, "the front runs the call by itself")


@pytest.fixture
def fronted(tmp_path: Path) -> Iterator[Any]:
    """Starts services with fronts and clients; they end with the test."""
    with ExitStack() as stack:

        def start(**settings: Any) -> Fronted:
            service = Fronted(tmp_path, **settings)
            stack.callback(service.close)
            service.start()
            service.connect()
            return service

        yield start
