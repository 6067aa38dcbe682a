"""Programs on lists of releases."""

from packaging.version import parse


def newest(releases: list[str]) -> str:
    """The newest of some releases."""
    return max(releases, key=parse)


def count(releases: list[str]) -> int:
    """The number of different releases."""
    return len(set(releases))
