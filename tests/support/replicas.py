"""The replicas of a service by `WEB_CONCURRENCY` (`make test-replicas`), and what each of them logs."""

import os
import re
from collections import defaultdict

import pytest

COUNT = int(os.environ.get("WEB_CONCURRENCY", "1"))
"""The replicas of each service that has workers for so many, and no other number in its settings."""

_SPEAKER = re.compile(r'\breplica(?:=|": )(\d+)')


def alone(reason: str) -> pytest.MarkDecorator:
    """Marks a test about one process, with the reason why several behave otherwise."""
    return pytest.mark.skipif(COUNT > 1, reason=reason)


def said_by_each(log: str, text: str) -> list[list[str]]:
    """The lines of a log with `text`: a list for each process that has logged any."""
    lines: defaultdict[str | None, list[str]] = defaultdict(list)
    for line in log.splitlines():
        if text in line:
            speaker = _SPEAKER.search(line)
            lines[speaker and speaker[1]].append(line)
    return list(lines.values())


def said_once(log: str, text: str) -> list[str]:
    """The lines with `text` of those processes that have logged any. Fails the test if one has logged it twice."""
    found = said_by_each(log, text)
    assert found, f"nobody has logged {text!r}"
    assert all(len(lines) == 1 for lines in found), found
    return [line for (line,) in found]


def have_said(log: str, text: str, times: int = 1) -> bool:
    """Tells if each replica has logged `text` so many times."""
    return [len(lines) for lines in said_by_each(log, text)] == [times] * COUNT
