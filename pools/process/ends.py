"""The descriptors through which a process of the service talks with one worker."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import structlog

_log = structlog.stdlib.get_logger("poolshift.spawner")


@dataclass(frozen=True, slots=True)
class WorkerEnds:
    """Our ends of a worker's pipes. With a worker on another machine one socket is both `requests` and `replies`."""

    requests: int
    replies: int
    output: int

    def close(self) -> None:
        """Closes all of them."""
        close_all({self.requests, self.replies, self.output})


def close_all(fds: Iterable[int]) -> None:
    """Closes descriptors, whatever the kernel says of them."""
    for fd in fds:
        close(os.close, fd)


def close(release: Callable[..., object], *arguments: object) -> None:
    """Lets go of something; a complaint of the kernel's keeps nothing else from being done."""
    try:
        release(*arguments)
    except OSError as error:
        _log.warning("cannot let go of a descriptor", reason=str(error))
