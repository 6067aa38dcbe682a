"""A background task that fails is restarted, is counted, and makes the service unhealthy if it is vital."""

import asyncio

import pytest
import structlog

from common import background
from common.background import Background
from tests.support.waiting import wait_until_async

pytestmark = pytest.mark.anyio


async def test_a_task_that_ends_is_restarted() -> None:
    """A task that raises anything, or just returns, runs again; closing its owner ends it."""
    third = asyncio.Event()
    begun = 0
    restarts: list[tuple[str, int]] = []

    async def follow() -> None:
        nonlocal begun
        begun += 1
        if begun == 1:
            raise KeyError("foo")
        if begun == 3:
            third.set()
            await asyncio.Event().wait()

    tasks = Background(lambda *restart: restarts.append(restart))
    with structlog.testing.capture_logs() as logged:
        task = tasks.run("ROLLOUT_FILE", follow)
        await asyncio.wait_for(third.wait(), 20)
        await tasks.aclose()
    assert task.cancelled()
    assert restarts == [("ROLLOUT_FILE", 0), ("ROLLOUT_FILE", 1), ("ROLLOUT_FILE", 1)]
    assert [(line["log_level"], line["task"], repr(line["exc_info"])) for line in logged] == [
        ("error", "ROLLOUT_FILE", "KeyError('foo')"),
        ("error", "ROLLOUT_FILE", "None"),
    ]


@pytest.mark.parametrize("is_vital", [True, False])
async def test_a_vital_task_that_keeps_failing_is_named(monkeypatch: pytest.MonkeyPatch, *, is_vital: bool) -> None:
    """A task that fails because of the outside world never is."""
    monkeypatch.setattr(background, "FAILING_AFTER_S", 0.0)
    failed = asyncio.Event()

    async def fail() -> None:
        failed.set()
        raise OSError(24, "Too many open files")

    tasks = Background()
    tasks.run("supervisor", fail, is_vital=is_vital)
    await asyncio.wait_for(failed.wait(), 20)
    await asyncio.sleep(0)
    assert tasks.failing() == (["supervisor"] if is_vital else [])
    await tasks.aclose()


async def is_healthy(tasks: Background) -> bool:
    return not tasks.failing()


async def test_a_task_that_runs_steadily_is_healthy_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """After one failure, `STEADY_S` of running without another clear its record."""
    monkeypatch.setattr(background, "FAILING_AFTER_S", 0.0)
    monkeypatch.setattr(background, "STEADY_S", 0.01)
    second = asyncio.Event()
    begun = 0

    async def work() -> None:
        nonlocal begun
        begun += 1
        if begun == 1:
            raise RuntimeError
        second.set()
        await asyncio.Event().wait()

    tasks = Background()
    tasks.run("inspection", work, is_vital=True)
    await asyncio.wait_for(second.wait(), 20)
    await wait_until_async(lambda: is_healthy(tasks), "the task counts as steady")
    await tasks.aclose()
