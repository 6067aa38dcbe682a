"""Waits for warm workers before traffic goes to them: at the start of the service, and before V2's share rises."""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

import structlog

from pools.protocol import Pool
from routing.rollout.flag import RolloutFlag
from routing.split import BASIS_POINTS
from routing.versions import Version

_log = structlog.stdlib.get_logger("poolshift.rollout")


class WarmStart:
    """Tells once if the service has had the warm workers that its traffic needs. Later recycling changes nothing."""

    def __init__(
        self,
        pools: Mapping[Version, Pool],
        flag: RolloutFlag,
        pin: Version | None,
        timeout_s: float,
        absent: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        """After `timeout_s` seconds the service does with the workers that it has.

        `absent` names the replicas of the machine that do not serve yet.
        """
        self._absent = absent
        self._pools = pools
        self._flag = flag
        self._pin = pin
        self._due = time.monotonic() + timeout_s
        self._is_over = False

    def __repr__(self) -> str:
        return f"<WarmStart over={self._is_over}>"

    def missing(self) -> list[str]:
        """Names pools that lack warm workers for their share, and absent replicas; none once there has been none."""
        if not self._is_over:
            lacking = [f"warm workers of pool {version}" for version in self._pools if not self._is_warm(version)]
            lacking += [f"replica {one}" for one in self._absent()]
            if lacking and time.monotonic() < self._due:
                return lacking
            self._is_over = True
        return []

    def _is_warm(self, version: Version) -> bool:
        """Tells if a pool is warm, or gets no traffic, or cannot start workers: then the other one gets its share."""
        pool = self._pools[version]
        return pool.is_warm_for(self._share_of(version)) or (pool.fault is not None and not pool.is_ready)

    def _share_of(self, version: Version) -> float:
        if self._pin is not None:
            return float(version is self._pin)
        if Version.V1 not in self._pools:
            return 1.0
        v2 = self._flag.current.canary_basis_points / BASIS_POINTS
        return v2 if version is Version.V2 else 1.0 - v2


async def wait_until_warm(
    pool: Pool,
    flag: RolloutFlag,
    basis_points: int,
    expected: int | None,
    everywhere: Callable[[float], Awaitable[bool]] | None = None,
) -> int | None:
    """Waits until V2 is warm for a share that is about to rise, `WARM_TIMEOUT_S` at most.

    `pool` is the V2 of this replica; `everywhere` waits for that of all replicas of the machine, if there are several.

    Returns the revision that the change is meant for: `expected`, or after a wait the one from before it, so that the
    change does not undo what somebody else has decided meanwhile.
    """
    current, share = flag.current, basis_points / BASIS_POINTS
    if basis_points <= current.canary_basis_points or (everywhere is None and pool.is_warm_for(share)):
        return expected
    if not await (everywhere or pool.warmed)(share):
        _log.warning(
            "V2's share rises although V2 has too few warm workers",
            canary_percent=basis_points / 100,
            warm_workers=pool.warm_workers,
        )
    return current.revision if expected is None else expected
