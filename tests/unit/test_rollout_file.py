"""The rollout file at the start: no call is routed before the file's percentage is in force."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from routing.rollout import file as rollout_file
from routing.rollout.file import RolloutFile
from routing.rollout.flag import open_flag
from tests.support.rollout import MemoryLog


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"canary_percent: 42.5\n", 42.5), (b"canary_percent: many\n", 0.0), (FileNotFoundError("no such file"), 0.0)],
)
def test_the_first_look_ends_once_the_content_is_dealt_with(content: bytes | OSError, expected: float) -> None:
    """The content is applied, or refused, when the wait is over."""

    async def run() -> None:
        flag = await open_flag(MemoryLog(), None)
        file, is_read = RolloutFile(flag, "rollout.yaml"), asyncio.Event()

        async def contents() -> AsyncIterator[bytes | OSError]:
            await is_read.wait()
            yield content
            await asyncio.Event().wait()

        following = asyncio.create_task(file.follow(contents()))
        look = asyncio.create_task(file.first_look())
        done, _ = await asyncio.wait({look}, timeout=0)
        assert not done
        is_read.set()
        await look
        assert flag.current.canary_percent == expected
        following.cancel()

    asyncio.run(run())


def test_a_folder_that_hangs_does_not_hold_up_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wait for the first content has an end."""
    monkeypatch.setattr(rollout_file, "FIRST_LOOK_TIMEOUT_S", 0.01)

    async def run() -> None:
        flag = await open_flag(MemoryLog(), None)
        await RolloutFile(flag, "rollout.yaml").first_look()
        assert flag.current.canary_percent == 0.0

    asyncio.run(run())
