"""Traffic waits for warm workers: at the start of the service, and before V2's share rises."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from app.positions.warmth import WarmStart, wait_until_warm
from routing.versions import Version
from tests.support.fake_pools import FakePool

pytestmark = pytest.mark.anyio


def flag(basis_points: int, revision: int = 7) -> Any:
    """A flag at this percentage."""
    return SimpleNamespace(current=SimpleNamespace(canary_basis_points=basis_points, revision=revision))


def two_pools(*cold: Version) -> dict[Version, FakePool]:
    """Both pools, of which some are cold."""
    pools = {version: FakePool(version.value) for version in Version}
    for version in cold:
        pools[version].is_warm = False
    return pools


@pytest.mark.parametrize(
    ("cold", "basis_points", "pin", "missing"),
    [
        ((), 5_000, None, []),
        ((Version.V2,), 0, None, []),
        ((Version.V2,), 1, None, ["warm workers of pool v2"]),
        ((Version.V1,), 10_000, None, []),
        ((Version.V1, Version.V2), 5_000, None, ["warm workers of pool v1", "warm workers of pool v2"]),
        ((Version.V1,), 0, Version.V2, []),
        ((Version.V2,), 0, Version.V2, ["warm workers of pool v2"]),
    ],
)
async def test_the_service_is_ready_once_its_workers_are_warm(
    cold: tuple[Version, ...], basis_points: int, pin: Version | None, missing: list[str]
) -> None:
    """Each pool that gets traffic; once it was, no pool that grows cold changes that."""
    pools = two_pools(*cold)
    start = WarmStart(pools, flag(basis_points), pin, 60.0)
    assert start.missing() == missing
    for pool in pools.values():
        pool.is_warm = True
    assert start.missing() == []
    for pool in pools.values():
        pool.is_warm = False
    assert start.missing() == []


async def test_the_start_waits_for_no_more_than_the_time_for_it() -> None:
    """Neither longer than that, nor for a pool that cannot start workers."""
    assert WarmStart(two_pools(Version.V1), flag(0), None, 0.0).missing() == []
    pools = two_pools(Version.V2)
    pools[Version.V2].is_ready, pools[Version.V2].fault = False, "no interpreter"
    assert WarmStart(pools, flag(5_000), None, 60.0).missing() == []


async def test_a_higher_percentage_is_for_the_revision_that_it_was_asked_at() -> None:
    """If it had to wait: somebody may have rolled back meanwhile. A lower one, or a warm V2, waits for nothing."""
    pool = FakePool("v2")
    assert await wait_until_warm(pool, flag(100), 5_000, None) is None
    pool.is_warm = False
    assert await wait_until_warm(pool, flag(5_000), 100, None) is None
    assert await wait_until_warm(pool, flag(100), 5_000, None) == 7
    assert await wait_until_warm(pool, flag(100), 5_000, 3) == 3


async def test_it_waits_for_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as the pool says."""
    pool, warm = FakePool("v2"), asyncio.Event()
    pool.is_warm = False

    async def warmed(share: float) -> bool:
        assert share == 0.5
        return await warm.wait()

    monkeypatch.setattr(pool, "warmed", warmed)
    waiting = asyncio.ensure_future(wait_until_warm(pool, flag(0), 5_000, None))
    await asyncio.sleep(0)
    assert not waiting.done()
    warm.set()
    assert await waiting == 7
