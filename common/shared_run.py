"""Work that never runs twice at once, and is shared by all who ask for it meanwhile."""

import asyncio
from collections.abc import Awaitable, Callable


class SharedRun:
    """Runs the work for whoever asks: a run has begun after the question, or takes along all that was there by then."""

    def __init__(self, work: Callable[[], Awaitable[None]]) -> None:
        """Takes `work`, whose effect must be of what is there when it begins."""
        self._work = work
        self._under_way: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        return f"<SharedRun {self._work!r} is_under_way={self._under_way is not None}>"

    async def __call__(self) -> None:
        """Waits for a run that is under way, and then for the next, which it begins unless somebody else has.

        Raises whatever the work raises. What fails for one fails for all who wait: they do not try in turn.
        """
        if self._under_way is not None:
            await _end_of(self._under_way)
        while self._under_way is not None:  # it began after this question
            if await _end_of(self._under_way):
                return
        await self._run()

    async def _run(self) -> None:
        run = self._under_way = asyncio.get_running_loop().create_future()
        try:
            await self._work()
        except Exception as error:
            run.set_exception(error)
            run.exception()  # nobody may be waiting for it
            raise
        except BaseException:
            run.cancel()
            raise
        else:
            run.set_result(None)
        finally:
            self._under_way = None


async def _end_of(run: asyncio.Future[None]) -> bool:
    """Waits for the end of another's run; returns whether it was not broken off. Raises whatever its work raised."""
    await asyncio.wait({run})
    if run.cancelled():
        return False
    error = run.exception()
    if error is not None:
        raise error
    return True
