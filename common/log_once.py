"""A source of the rollout that makes no sense says so once, and not at each look."""

import structlog

_log = structlog.stdlib.get_logger("poolshift.rollout")


class Complaint:
    """What is wrong with one source; the last good value stays in force meanwhile."""

    def __init__(self, event: str, **about: str) -> None:
        """`event` and `about` are the log line's, beside the reason."""
        self._event = event
        self._about = about
        self._reason: str | None = None

    def make(self, reason: str) -> None:
        """Something is wrong: a line in the log, unless it was wrong in the same way before."""
        if reason != self._reason:
            self._reason = reason
            _log.warning(self._event, **self._about, reason=reason)

    def settle(self) -> None:
        """All is well: the next complaint is a new one."""
        self._reason = None
