"""Logs a problem that lasts once, and not each time that it is noticed."""

import structlog

_log = structlog.stdlib.get_logger("poolshift.rollout")


class LogOnce:
    """The one problem that a source has at the moment."""

    def __init__(self, event: str, **about: str) -> None:
        """`event` and `about` are the log line's, beside the reason."""
        self._event = event
        self._about = about
        self._reason: str | None = None

    def warn(self, reason: str) -> None:
        """Logs `reason`, unless the problem was the same before."""
        if reason != self._reason:
            self._reason = reason
            _log.warning(self._event, **self._about, reason=reason)

    def clear(self) -> None:
        """Ends the problem: the next one is logged even if it has the same reason."""
        self._reason = None
