"""The announced end of V1 (`V1_SUNSET`), which the log tells at each start."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time

import structlog

from routing.rollout.log import RolloutLog

_SOURCE = "v1_sunset"
"""The name under which the log keeps when a date was first seen."""
_log = structlog.stdlib.get_logger("poolshift")


@dataclass(frozen=True, slots=True)
class Sunset:
    """The end of V1, and the time at which it was announced."""

    at: datetime
    announced: datetime


async def announced_sunset(v1_sunset: date | None, log: RolloutLog) -> Sunset | None:
    """Reads when the end of V1 was first announced, and says so in the log. Raises StoreUnavailable."""
    if v1_sunset is None:
        return None
    at = datetime.combine(v1_sunset, time(), UTC)
    said = await log.last_seen(_SOURCE)
    day, _, announced = (said or "").partition(" ")
    if day != v1_sunset.isoformat():
        announced = datetime.now(UTC).isoformat(timespec="seconds")
        await log.saw(_SOURCE, f"{v1_sunset.isoformat()} {announced}")
    sunset = Sunset(at, datetime.fromisoformat(announced))
    tell = _log.error if at <= datetime.now(UTC) else _log.warning
    tell("V1 ends", at=v1_sunset.isoformat(), to_end="POOLS=v2, once `poolshift migration status` has no objection")
    return sunset
