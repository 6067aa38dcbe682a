"""Lending a pool's workers to other processes of the service, which run calls on them themselves.

The pool owns a worker on loan as before: it kills it, measures it, notices its death and replaces it. Only the worker's
pipes are read elsewhere meanwhile (`app.fronts`).
"""

from typing import Protocol

from pools.protocol import PoolSnapshot


class Lender(Protocol):
    """Decides who has the workers, as the engine of their pool knows it."""

    @property
    def waiting(self) -> int:
        """The number of calls that wait for workers elsewhere; they count towards the limit of the pool's queue."""
        ...

    @property
    def idle(self) -> int:
        """The number of workers on loan that are idle: they come back at once for calls that wait here."""
        ...

    def has_idle(self) -> None:
        """Workers are idle, which calls that wait here will get next. May lend some of them at once."""

    def is_short(self) -> None:
        """A call waits here, and no worker is idle."""

    def is_suspect(self) -> None:
        """A program has killed a worker: its next calls are for the pool to admit or to refuse."""

    def withdraw_running(self) -> None:
        """Takes back the running calls of idempotent programs elsewhere; their workers are killed."""

    def completed(self, snapshot: PoolSnapshot) -> PoolSnapshot:
        """Adds to a snapshot what runs and waits elsewhere."""
        ...
