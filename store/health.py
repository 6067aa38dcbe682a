"""The state of the database, as this process last found it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from routing.errors import StoreUnavailable


@dataclass(frozen=True, slots=True)
class StoreFailure:
    """A failure that no later success has ended, in the words of the last one."""

    reason: str
    since: float
    """The time of the first one, by `time.monotonic`: a database that fails cannot be asked for the time."""
    is_of_writing: bool


class StoreHealth:
    """Notes how transactions end. What was written ends any failure, what was read ends one of reading alone.

    A full disk, or a writer that does not end, lets everybody read.
    """

    def __init__(self) -> None:
        self.failure: StoreFailure | None = None

    def __repr__(self) -> str:
        return f"<StoreHealth {self.failure}>"

    @contextmanager
    def noting(self, *, is_writing: bool) -> Iterator[None]:
        """Notes the end of a transaction, which the block is."""
        try:
            yield
        except StoreUnavailable as error:
            before = self.failure
            since = time.monotonic() if before is None else before.since
            of_writing = is_writing or (before is not None and before.is_of_writing)
            self.failure = StoreFailure(str(error), since, of_writing)
            raise
        if self.failure is not None and (is_writing or not self.failure.is_of_writing):
            self.failure = None
