"""A follower that fails is an error in the log, and follows again."""

import asyncio

import pytest
import structlog

from common.following import keep_following

pytestmark = pytest.mark.anyio


async def test_a_follower_that_fails_is_started_anew() -> None:
    """Each time, whether it raises or just ends; what cancels it ends it."""
    third = asyncio.Event()
    begun = 0

    async def follow() -> None:
        nonlocal begun
        begun += 1
        if begun == 1:
            raise KeyError("foo")
        if begun == 3:
            third.set()
            await asyncio.Event().wait()

    with structlog.testing.capture_logs() as logged:
        task = asyncio.create_task(keep_following("ROLLOUT_FILE", follow, begin_again_s=0))
        await asyncio.wait_for(third.wait(), 20)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    (line,) = logged
    assert (line["log_level"], line["source"], repr(line["exc_info"])) == ("error", "ROLLOUT_FILE", "KeyError('foo')")
