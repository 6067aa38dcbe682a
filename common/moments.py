"""Moments before now, for any distance that a setting may name."""

import time
from datetime import UTC, datetime


def moment_before(seconds: float) -> datetime:
    """The moment `seconds` ago, but never before 1970: a time to live of 3,000 years is a valid setting."""
    return datetime.fromtimestamp(max(0.0, time.time() - seconds), UTC)
