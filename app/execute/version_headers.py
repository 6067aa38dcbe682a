"""The headers that name the version of an answer, and on V1's the announced end of V1."""

from collections.abc import Collection
from email.utils import format_datetime

from app.execute.response import lines_of
from routing.migration.sunset import Sunset
from routing.versions import Version


def version_lines(sunset: Sunset | None) -> dict[Version, bytes]:
    """The lines of the headers that name the version of an answer, with those of the sunset for V1."""
    lines = {version: b"x-pool-version: %s\r\n" % version.encode() for version in Version}
    lines[Version.V1] += sunset_lines(sunset, {Version.V1})
    return lines


def sunset_lines(sunset: Sunset | None, served_by: Collection[Version]) -> bytes:
    """The lines of `Deprecation` (RFC 9745) and `Sunset` (RFC 8594), if V1 has a part in the answer: none otherwise."""
    if sunset is None or Version.V1 not in served_by:
        return b""
    return lines_of(
        (
            (b"deprecation", b"@%d" % int(sunset.announced.timestamp())),
            (b"sunset", format_datetime(sunset.at, usegmt=True).encode()),
        )
    )
