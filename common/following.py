"""Keeps a follower going: a source that nobody listens to any more would be an operator's order that is not obeyed."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

BEGIN_AGAIN_S = 5.0
_log = structlog.stdlib.get_logger("poolshift")


async def keep_following(
    source: str, follow: Callable[[], Awaitable[None]], begin_again_s: float = BEGIN_AGAIN_S
) -> None:
    """Follows `source` until it is cancelled; where that fails, it is an error in the log and begins anew."""
    while True:
        try:
            await follow()
        except Exception as error:
            _log.error("a source is no longer followed; it is taken up again", source=source, exc_info=error)
        await asyncio.sleep(begin_again_s)
