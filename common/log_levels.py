"""The levels that a log has names for; what comes from another process may have been logged at any."""

import logging


def named_level(level: int) -> int:
    """The level of `logging` that has a name and is not above `level`, or the lowest there is."""
    return min(max(level // 10 * 10, logging.DEBUG), logging.CRITICAL)
