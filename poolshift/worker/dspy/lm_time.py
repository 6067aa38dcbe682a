"""The time that a call has for its LM. Only a request to an LM is cut short, never a program's own code."""

import asyncio
import signal
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import dspy

_ALARM_INTERVAL_S = 0.1


class OutOfTime(BaseException):
    """The LM took too long; none of the libraries underneath may take it for a failure to be retried."""

    def __init__(self, *, is_amid_answer: bool) -> None:
        super().__init__()
        self.is_amid_answer = is_amid_answer
        """True if the connection was left amid an answer, so that nobody may use it again."""


_asked: set[object] = set()
"""The requests to LMs that are under way: only these may be cut short at the end of the LM's time."""
_asked_by_task: ContextVar[set[object] | None] = ContextVar("poolshift_asked", default=None)
"""The same for one of many calls at once."""


@contextmanager
def _being_asked() -> Iterator[None]:
    request, of_task = object(), _asked_by_task.get()
    asked = _asked if of_task is None else of_task
    asked.add(request)
    try:
        yield
    finally:
        asked.discard(request)


_streaming_threads: set[int] = set()
"""The threads that DSPy can stream from without `async`: not those of `dspy.Parallel`, nor that of an event loop."""


@contextmanager
def streaming_from_this_thread() -> Iterator[None]:
    """Lets plain requests to LMs in the block be streamed, if they are made in this thread."""
    thread = threading.get_ident()
    _streaming_threads.add(thread)
    try:
        yield
    finally:
        _streaming_threads.discard(thread)


class TimedLM(dspy.LM):  # type: ignore[misc]
    """An LM that tells when it is asked: a program's own code is not cut short."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with _being_asked():
            if dspy.settings.send_stream is None or threading.get_ident() in _streaming_threads:
                return super().__call__(*args, **kwargs)
            with dspy.context(send_stream=None):
                return super().__call__(*args, **kwargs)

    async def acall(self, *args: Any, **kwargs: Any) -> Any:
        with _being_asked():
            return await super().acall(*args, **kwargs)


def forget_requests() -> None:
    """Forgets the requests of the call before, which may have left a thread."""
    _asked.clear()


async def in_time(running: Coroutine[Any, Any, Any], seconds: float) -> Any:
    """Raises OutOfTime if the LM is asked after `seconds`; as `no_longer_than` does without an event loop."""
    return await _in_time(running, seconds, _asked, is_alone=True)


async def in_time_beside_others(running: Coroutine[Any, Any, Any], seconds: float) -> Any:
    """As `in_time`, for one of many calls at once, whose requests alone count."""
    asked: set[object] = set()
    _asked_by_task.set(asked)
    return await _in_time(running, seconds, asked, is_alone=False)


async def _in_time(running: Coroutine[Any, Any, Any], seconds: float, asked: set[object], *, is_alone: bool) -> Any:
    answer = asyncio.ensure_future(running)
    try:
        done, _ = await asyncio.wait({answer}, timeout=seconds)
        while not done and not asked:
            done, _ = await asyncio.wait({answer}, timeout=_ALARM_INTERVAL_S)
    except asyncio.CancelledError:
        answer.cancel()
        await asyncio.wait({answer})
        raise
    if not done:
        answer.cancel()
        await asyncio.wait({answer})
        raise OutOfTime(is_amid_answer=is_alone)
    return answer.result()


@contextmanager
def no_longer_than(seconds: float) -> Iterator[None]:
    """Raises OutOfTime in the block if the LM is asked after `seconds`, and again until it is heard.

    A timeout of the connection would not do: an endpoint that sends a byte now and then never runs into it. A tool or
    a module's own code is not the LM, and not interrupted: one that runs at the deadline ends as any program does.
    """

    def ring(*_: object) -> None:
        if _asked:
            raise OutOfTime(is_amid_answer=True)

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, _ALARM_INTERVAL_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
