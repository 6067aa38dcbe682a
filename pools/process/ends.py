"""The descriptors through which a process of the service talks with one worker."""

import os
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
        """Closes all of them. A complaint of the kernel's keeps nothing else from being closed."""
        close_all({self.requests, self.replies, self.output})


def close_all(fds: "set[int] | tuple[int, ...]") -> None:
    """Closes descriptors, whatever the kernel says of them."""
    for fd in fds:
        try:
            os.close(fd)
        except OSError as error:
            _log.warning("cannot let go of a descriptor", reason=str(error))
