"""The application without new threads: whatever needs one has it already, and a rollback is always answered."""

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NoReturn

import httpx
import pytest

from app.application import create_app
from common.threads import in_thread, start_threads
from config.settings import Settings

pytestmark = pytest.mark.anyio


@pytest.fixture
async def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the whole application, which has started while there were threads to be had."""
    database = f"sqlite+aiosqlite:///{tmp_path / 'test.db'}"
    settings = Settings(database_url=database, v1_pool_size=1, v2_pool_size=1, lm_model="none", canary_percent=50)
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            with monkeypatch.context() as patch:
                patch.setattr(threading.Thread, "start", no_thread)
                yield client


def no_thread(_: threading.Thread) -> NoReturn:
    raise RuntimeError("can't start new thread")


async def test_rollbacks_are_answered(client: httpx.AsyncClient) -> None:
    """All of them, at once and one after another, and each is in force."""
    for _ in range(3):
        assert (await client.patch("/rollout", json={"canary_percent": 50})).status_code == 200
        answers = await asyncio.gather(*(client.post("/rollout/rollback") for _ in range(20)))
        assert [answer.status_code for answer in answers] == [200] * 20
        assert (await client.get("/rollout")).json()["canary_percent"] == 0


@pytest.mark.parametrize(
    "path", ["/healthz", "/readyz", "/metrics", "/pools", "/programs", "/sessions", "/openapi.json"]
)
async def test_reads_are_answered(client: httpx.AsyncClient, path: str) -> None:
    """Whatever they measure or read, many at once."""
    answers = await asyncio.gather(*(client.get(path) for _ in range(20)))
    assert [answer.status_code for answer in answers] == [200] * 20


async def test_work_is_done_on_the_event_loop_at_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """If there is not one thread; what the work raises is raised."""
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        assert await in_thread(lambda: 7) == 7
        with pytest.raises(ValueError, match="x"):
            await in_thread(lambda: int("x"))


async def test_threads_run_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once they are started, as many work at the same time without another start."""
    await start_threads(4)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        barrier = threading.Barrier(4)
        await asyncio.gather(*(asyncio.to_thread(barrier.wait, 20) for _ in range(4)))
