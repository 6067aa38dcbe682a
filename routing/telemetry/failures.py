"""The newest failed calls of this replica, by error code and version: for people who look at single executions."""

import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from routing.versions import Version

KEPT_OF_EACH: Final = 20
"""Failed calls kept for each code and version; older ones are only counted."""
MAX_DETAIL: Final = 1024
"""Characters of a detail that are kept."""
MAX_PROGRAM_ID: Final = 128
"""Characters kept of a program's id, which for an unknown program is any text."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One call that was answered with an error."""

    at: float
    """By `time.time`."""
    version: Version
    code: str
    category: str
    program_id: str
    execution_id: str
    trace_id: str | None
    is_traced: bool
    """True if this service exports spans of the call."""
    detail: str


class Failures:
    """Counts failed calls since the start, and keeps the newest of each kind. A successful call costs nothing here."""

    def __init__(self) -> None:
        self.since = time.time()
        self._counts: dict[tuple[str, Version], int] = {}
        self._kept: dict[tuple[str, Version], deque[Failure]] = {}

    def add(
        self,
        version: Version,
        code: str,
        category: str,
        *,
        program_id: str,
        execution_id: str,
        trace_id: str | None,
        is_traced: bool,
        detail: str,
    ) -> None:
        """Keeps a failed call; its texts are truncated."""
        kind = code, version
        self._counts[kind] = self._counts.get(kind, 0) + 1
        kept = self._kept.get(kind)
        if kept is None:
            kept = self._kept[kind] = deque(maxlen=KEPT_OF_EACH)
        kept.append(
            Failure(
                time.time(),
                version,
                code,
                category,
                program_id[:MAX_PROGRAM_ID],
                execution_id,
                trace_id,
                is_traced,
                detail[:MAX_DETAIL],
            )
        )

    def counts(self) -> Mapping[tuple[str, Version], int]:
        """Failed calls since the start, by code and version."""
        return dict(self._counts)

    def newest(self, code: str | None = None, version: Version | None = None) -> Iterator[Failure]:
        """Yields the kept calls of a code and a version, the newest first; None stands for all."""
        chosen = [
            failure
            for (of_code, of_version), kept in self._kept.items()
            if code in (None, of_code) and version in (None, of_version)
            for failure in kept
        ]
        yield from sorted(chosen, key=lambda failure: failure.at, reverse=True)
