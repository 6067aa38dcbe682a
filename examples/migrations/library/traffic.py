"""Lists of releases, of which one in twenty has a version number of the user's own kind."""

from typing import Any


def call(number: int) -> tuple[str, dict[str, Any]]:
    """The program and the inputs of a call."""
    releases = [f"1.{number % 7}.0", f"1.{number % 11}.3"]
    if number % 20 == 0:
        releases.append("release-of-spring")
    return ("newest" if number % 2 == 0 else "count"), {"releases": releases}
