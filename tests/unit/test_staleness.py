"""A replica that may have missed a rollback sends nothing to V2, and goes back once it has caught up."""

import asyncio

import pytest
import structlog

from routing.rollout import staleness
from routing.rollout.flag import RolloutFlag, open_flag
from routing.rollout.model import Change, Source
from tests.support.rollout import MemoryLog

pytestmark = pytest.mark.anyio


async def until(flag: RolloutFlag, *, is_cut_off: bool) -> None:
    """Waits for the guard to have looked."""
    looked = asyncio.Event()
    flag.listen(lambda _: looked.set())
    async with asyncio.timeout(20):
        while flag.is_cut_off is not is_cut_off:
            looked.clear()
            await looked.wait()


@pytest.mark.parametrize("percent", [0, 50, 100])
async def test_a_stale_flag_is_cut_off_and_comes_back(monkeypatch: pytest.MonkeyPatch, percent: int) -> None:
    """The log's value is in force once the replica has caught up; the log shows both moments once."""
    monkeypatch.setattr(staleness, "CHECK_INTERVAL_S", 0.001)
    log = MemoryLog()
    flag, elsewhere = await open_flag(log, 5000), await open_flag(log, None)
    stale_s = 0.0
    guard = asyncio.ensure_future(staleness.limit_staleness(flag, lambda: stale_s, 10.0))
    with structlog.testing.capture_logs() as logged:
        stale_s = 10.5
        await until(flag, is_cut_off=True)
        assert (flag.threshold, flag.current.canary_basis_points) == (0, 5000)
        flag.follow(await elsewhere.change(Change(percent * 100, Source.API, "alice")))
        assert flag.threshold == 0
        stale_s = 0.0
        await until(flag, is_cut_off=False)
    assert flag.threshold == elsewhere.threshold
    events = [line["event"] for line in logged if line["event"] != "rollout changed"]
    assert events == ["cut off from the rollout; everything goes to V1", "caught up with the rollout"]
    guard.cancel()


async def test_a_rollback_while_cut_off_stays() -> None:
    """The rollback's revision follows the log's."""
    flag = await open_flag(MemoryLog(), 5000)
    flag.cut_off(20.0)
    await flag.rollback("carol", "enough")
    flag.reconnect()
    assert (flag.threshold, flag.current.revision) == (0, 2)
