"""Calls through a restart and a rollback: none is lost that may be repeated, none runs twice that may not."""

import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from poolshift.client import Client, PoolshiftError, Retry
from tests.client.either import KINDS, Clients
from tests.conftest import StartService
from tests.support.waiting import wait_until

PATIENT = Retry(attempts=200, first_pause_s=0.02, longest_pause_s=0.2)
MORE = 15
"""Calls of each caller after each event."""


@dataclass
class Caller:
    """Calls a program that writes down each of its runs, one call after the other."""

    client: Client
    program_id: str
    ledger: Path
    has_keys: bool
    done: list[str] = field(default_factory=list)
    failed: dict[str, PoolshiftError] = field(default_factory=dict)

    def call_until(self, end: threading.Event) -> None:
        while not end.is_set():
            nonce = uuid.uuid4().hex
            try:
                self.client.execute(
                    self.program_id,
                    {"path": str(self.ledger), "line": nonce},
                    idempotency_key=nonce if self.has_keys else None,
                )
            except PoolshiftError as error:
                self.failed[nonce] = error
            else:
                self.done.append(nonce)


@contextmanager
def calling(callers: list[Caller]) -> Iterator[None]:
    """Lets all callers call, each in a thread of its own."""
    end = threading.Event()
    threads = [threading.Thread(target=caller.call_until, args=(end,)) for caller in callers]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        end.set()
        for thread in threads:
            thread.join()


def go_on(callers: list[Caller]) -> None:
    """Waits until each caller has had more answers."""
    goals = [len(caller.done) + MORE for caller in callers]
    wait_until(
        lambda: all(len(caller.done) >= goal for caller, goal in zip(callers, goals, strict=True)),
        "each caller has more answers",
    )


@pytest.mark.thorough
def test_a_restart_and_a_rollback_under_load(start_service: StartService, tmp_path: Path) -> None:
    """Both clients, with keys and without: the ledger of the program has each call at most once.

    A call without a key may only fail if its answer was lost, and so by an error that does not say that it is safe to
    repeat. A call with a key never fails.
    """
    first = start_service(V1_POOL_SIZE=1, V2_POOL_SIZE=1, CANARY_PERCENT=50)
    program_id = first.create("write_down", {"path": "string", "line": "string"}, "integer")
    ledger = tmp_path / "ledger"
    makers = [Clients(kind) for kind in KINDS for _ in range(2)]
    callers = [
        Caller(maker.make(first.url, retry=PATIENT, timeout_s=60), program_id, ledger, has_keys=bool(number % 2))
        for number, maker in enumerate(makers)
    ]
    try:
        with calling(callers):
            go_on(callers)
            assert first.stop() == 0
            first.start()
            go_on(callers)
            rolled_back = callers[0].client.rollout.roll_back(reason="a test")
            go_on(callers)
    finally:
        for maker in makers:
            maker.close()
    assert rolled_back.canary_percent == 0
    runs = Counter(ledger.read_text().split())
    assert set(runs.values()) == {1}
    assert {nonce for caller in callers for nonce in caller.done} <= runs.keys()
    for caller in callers:
        assert not (caller.has_keys and caller.failed), caller.failed
        assert not any(error.retry_safe for error in caller.failed.values()), caller.failed
        assert len(caller.failed) <= 1, caller.failed  # each has one call under way at the restart
