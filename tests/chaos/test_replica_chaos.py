"""Chaos on one machine: replicas, their supervisor, zygotes and workers are killed under load (CHAOS_SECONDS)."""

import asyncio
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import httpx
import psutil
import pytest

from tests.conftest import StartService
from tests.support.service import Service, says_ready
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.timing]

SECONDS = float(os.environ.get("CHAOS_SECONDS", "10"))
SEED = int(os.environ.get("CHAOS_SEED", time.time_ns()))
CALLERS = 12
KILL_INTERVAL_S = 0.4
BACK_WITHIN_S = 10.0


class Ledger:
    """The end of each call: an answer of its own, or a connection that has ended."""

    def __init__(self, written: Path) -> None:
        self.answers: Counter[str] = Counter()
        self.foreign: list[tuple[str, object]] = []
        self.sent: set[str] = set()
        self._written = written

    def runs(self) -> Counter[str]:
        """Counts the runs of each call, by what it has written down."""
        return Counter(self._written.read_text().split()) if self._written.exists() else Counter()


async def call_steadily(service: Service, program: str, path: Path, ledger: Ledger, until: asyncio.Event) -> None:
    """Calls one after another, each with a line of its own to write down."""
    async with httpx.AsyncClient(base_url=service.url, timeout=60) as client:
        while not until.is_set():
            line = f"{random.getrandbits(64):x}"
            ledger.sent.add(line)
            try:
                answer = await client.post(
                    f"/programs/{program}/execute", json={"inputs": {"path": str(path), "line": line}}
                )
            except httpx.TransportError:
                ledger.answers["closed"] += 1
                await asyncio.sleep(0.01)  # as any client does, before it connects again
                continue
            body = answer.json()
            if answer.status_code == 200:
                ledger.answers["ok"] += 1
                if body["outputs"] != {"result": len(f"{line}\n")}:
                    ledger.foreign.append((line, body))
            else:
                ledger.answers[body["code"]] += 1


async def kill_at_random(service: Service, until: asyncio.Event) -> Counter[str]:
    """Kills a process at random every so often, and starts the service again once its supervisor is dead."""
    kills: Counter[str] = Counter()
    while not until.is_set():
        assert service.process is not None
        try:
            kind = random.choices(["worker or zygote", "replica", "supervisor"], [10, 5, 1])[0]
            os.kill(_victim(service.process.pid, kind), signal.SIGKILL)
            kills[kind] += 1
        except (psutil.NoSuchProcess, ProcessLookupError, IndexError):
            pass  # it has just died with another
        if service.process.poll() is not None:
            await asyncio.to_thread(service.start)
        await asyncio.sleep(KILL_INTERVAL_S)
    return kills


def _victim(supervisor: int, kind: str) -> int:
    if kind == "supervisor":
        return supervisor
    replicas = psutil.Process(supervisor).children()
    if kind == "replica":
        return random.choice(replicas).pid
    return random.choice([one for replica in replicas for one in replica.children(recursive=True)]).pid


def is_whole(service: Service) -> bool:
    """Tells if both replicas serve, and both pools have all their workers, idle."""
    return says_ready(service.client) and all(
        pool["idle"] == pool["wished_size"] and not pool["missing_replicas"]
        for pool in service.client.get("/pools").json()
    )


async def test_whatever_dies_no_call_is_doubled_or_foreign(start_service: StartService, tmp_path: Path) -> None:
    """Each call has one answer or a closed connection, runs once at most, and the sizes are back within ten seconds."""
    print(f"CHAOS_SEED={SEED}")
    random.seed(SEED)
    service = start_service(WEB_CONCURRENCY=2, CANARY_PERCENT=50, V1_POOL_SIZE=4, V2_POOL_SIZE=4)
    path = tmp_path / "written"
    program = service.create("write_down", {"path": "string", "line": "string"}, "integer")
    ledger, stop = Ledger(path), asyncio.Event()
    asyncio.get_running_loop().call_later(SECONDS, stop.set)
    calls = asyncio.gather(*(call_steadily(service, program, path, ledger, stop) for _ in range(CALLERS)))
    kills = await kill_at_random(service, stop)
    await calls
    print(f"{len(ledger.sent)} calls, {dict(ledger.answers)}, kills: {dict(kills)}")
    assert ledger.foreign == []
    assert set(ledger.answers) <= {
        "ok",
        "closed",
        "worker_crashed",
        "store_unavailable",
        "pool_overloaded",
        "pool_closed",
    }
    assert ledger.answers["ok"] > 0
    runs = ledger.runs()
    assert [line for line, count in runs.items() if count > 1] == []
    assert runs.keys() <= ledger.sent
    assert len(runs) >= ledger.answers["ok"]
    wait_until(lambda: is_whole(service), "both replicas have all their workers", BACK_WITHIN_S)
