"""The announced end of V1: headers on all that V1 answers, a log line and a metric (`V1_SUNSET`)."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from email.utils import format_datetime

import structlog

from app.execute.response import lines_of
from routing.rollout.log import RolloutLog
from routing.versions import Version

_SOURCE = "v1_sunset"
"""The name under which the log keeps when a date was first seen."""
_log = structlog.stdlib.get_logger("poolshift")


@dataclass(frozen=True, slots=True)
class Sunset:
    """The end of V1, and the time at which it was announced."""

    at: datetime
    announced: datetime

    @property
    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """The headers of what V1 answers: `Deprecation` (RFC 9745) and `Sunset` (RFC 8594)."""
        return (
            (b"deprecation", b"@%d" % int(self.announced.timestamp())),
            (b"sunset", format_datetime(self.at, usegmt=True).encode()),
        )


async def open_sunset(v1_sunset: date | None, log: RolloutLog) -> Sunset | None:
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


def version_lines(sunset: Sunset | None) -> dict[Version, bytes]:
    """The lines of the headers that name the version of an answer, with those of the sunset for V1."""
    lines = {version: b"x-pool-version: %s\r\n" % version.encode() for version in Version}
    lines[Version.V1] += sunset_lines(sunset, {Version.V1})
    return lines


def sunset_lines(sunset: Sunset | None, served_by: Collection[Version]) -> bytes:
    """The lines of the headers that announce the end of V1, if V1 has a part in the answer: none otherwise."""
    return b"" if sunset is None or Version.V1 not in served_by else lines_of(sunset.headers)
