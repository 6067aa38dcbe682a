"""A rotation in the rollout: it waits for the replica's pools, and nothing else waits for it."""

import pytest

from config.pools import PoolSpec
from config.settings import Settings
from routing.rollout.flag import RolloutFlag, open_flag
from routing.rollout.model import Change, Source
from tests.support.rollout import MemoryLog

pytestmark = pytest.mark.anyio
ROTATION = Change(0, Source.ROTATION, "ops", "python 3.11 → 3.13", v1_pool="{}")


async def two_replicas() -> tuple[MemoryLog, RolloutFlag, RolloutFlag]:
    """Both at 100 %."""
    log = MemoryLog()
    one, other = await open_flag(log, None), await open_flag(log, None)
    await one.change(Change(10_000, Source.API, "ops"))
    await follow(log, other)
    return log, one, other


async def follow(log: MemoryLog, flag: RolloutFlag) -> None:
    latest = await log.latest()
    assert latest is not None
    flag.follow(latest)


async def test_it_is_in_force_once_the_pools_have_followed() -> None:
    """On the replica that was asked, and on the other one; each is told that its pools must follow."""
    log, one, other = await two_replicas()
    told: list[str] = []
    one.listen_to_rotations(lambda: told.append("one"))
    other.listen_to_rotations(lambda: told.append("other"))
    rotated = await one.change(ROTATION)
    await follow(log, other)
    assert told == ["one", "other"]
    for flag in (one, other):
        assert flag.current.canary_basis_points == 10_000
        flag.rotated(rotated.revision)
        assert flag.current.revision == rotated.revision
        assert flag.threshold == 0


async def test_later_changes_wait_with_it() -> None:
    """A replica that has not rotated takes up no percentage that was meant for the new pools."""
    log, one, other = await two_replicas()
    one.rotated((await one.change(ROTATION)).revision)
    await one.change(Change(500, Source.API, "ops"))
    await follow(log, other)
    assert other.current.canary_basis_points == 10_000
    other.rotated(one.rotated_to)
    assert other.current.canary_basis_points == 500


async def test_a_rollback_does_not_wait() -> None:
    """Not on the replica where it is asked for, and not on the one that follows."""
    log, one, other = await two_replicas()
    one.rotated((await one.change(ROTATION)).revision)
    await follow(log, other)
    await other.rollback("ops", "at once")
    assert other.threshold == 0
    await follow(log, one)
    await one.change(Change(10_000, Source.API, "ops"))
    third = await open_flag(log, None)
    assert third.rotated_to == one.rotated_to


async def test_a_rollback_of_another_replica_does_not_wait() -> None:
    """The replica is still at its old pools, and goes to V1 all the same."""
    log, one, other = await two_replicas()
    one.rotated((await one.change(ROTATION)).revision)
    await one.rollback("ops", "at once")
    await follow(log, other)
    assert (other.current.source, other.threshold) == (Source.ROLLBACK, 0)


async def test_a_rotation_voids_nothing() -> None:
    """A rotation sets 0 % and is not a rollback: a change that was asked for before it is still asked for."""
    _, one, _ = await two_replicas()
    epoch = one.epoch
    one.rotated((await one.change(ROTATION)).revision)
    assert one.epoch == epoch
    assert one.current.rollback_revision == 0


def test_a_specification_survives_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each value, and one of a newer release is left out."""
    monkeypatch.setenv("V2_PYTHON", "python3.13")
    monkeypatch.setenv("V2_PRELOAD", "json,csv")
    monkeypatch.setenv("WORKER_MAX_AGE_S", "12.5")
    spec = Settings().pool("v2")
    assert (spec.python, spec.preload, spec.worker_max_age_s) == ("python3.13", ("json", "csv"), 12.5)
    assert PoolSpec.from_json(spec.as_json()) == spec
    assert PoolSpec.from_json(spec.as_json() | {"of_a_newer_release": 1}) == spec
    assert Settings().pool("v1").python is None
