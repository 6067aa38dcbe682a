"""Ramps of real services: traffic that keeps every answer, and what a service says of its ramp."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from tests.support.service import Service
from tests.support.waiting import wait_until

CLIENTS = 8
PLAN = {
    "steps": [
        {"percent": 10, "hold_s": 0.2, "min_calls": 200},
        {"percent": 50, "hold_s": 0.2, "min_calls": 400},
    ]
}

FAULTS_ALONE = {"latency": {"action": "observe"}, "tail": {"action": "observe"}}
"""The guardrails of a plan whose V2 fails: replaced workers and retries are slow, too, and may be found first."""


class Traffic:
    """Clients that call one program for as long as the block lasts; every answer is kept."""

    def __init__(self, services: list[Service], program: str, *, sessions: int = 0) -> None:
        self.answers: list[tuple[int, int, str, str | None]] = []
        """Number of the call, status, version, error code."""
        self._urls = [service.url for service in services]
        self._program = program
        self._sessions = sessions
        self._is_over = False
        self._pool = ThreadPoolExecutor(CLIENTS)

    def __enter__(self) -> "Traffic":
        self._runs = [self._pool.submit(self._call, client) for client in range(CLIENTS)]
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        self._pool.shutdown()
        for run in self._runs:
            run.result()

    def wait_for(self, count: int) -> None:
        """Returns once `count` more calls are answered."""
        enough = len(self.answers) + count
        wait_until(lambda: len(self.answers) > enough, "traffic goes on", 60)

    def _call(self, client: int) -> None:
        number = client
        with httpx.Client(base_url=self._urls[client % len(self._urls)], timeout=30) as http:
            while not self._is_over:
                body: dict[str, Any] = {"inputs": {"call": number}}
                if self._sessions:
                    body["session_id"] = f"s-{number % self._sessions}"
                try:
                    answer = http.post(f"/programs/{self._program}/execute", json=body)
                except httpx.TransportError:
                    return  # its service was killed
                said = answer.json()
                if answer.status_code == 200:
                    assert said["outputs"]["result"] == number
                self.answers.append((number, answer.status_code, answer.headers["x-pool-version"], said.get("code")))
                number += CLIENTS


def begin(service: Service, **plan: Any) -> None:
    answer = service.client.put("/rollout/plan", json={**PLAN, **plan})
    assert answer.status_code == 200, answer.text
    answer = service.client.post("/rollout/start", json={"reason": "a test"})
    assert answer.status_code == 200, answer.text


def status(service: Service) -> dict[str, Any]:
    answer = service.client.get("/rollout/status")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def newest_decision(service: Service) -> dict[str, Any]:
    """The last verdict that is not "continue", which is written behind the flag."""

    def grave() -> list[dict[str, Any]]:
        return [one for one in service.client.get("/rollout/decisions").json()["items"] if one["verdict"] != "continue"]

    wait_until(lambda: bool(grave()), "the verdict is written")
    return grave()[0]
