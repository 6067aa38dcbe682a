"""Decides when to send a call again, by its error and the time that is left; and when to look at a job again."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from poolshift.client.calls import Call, RawAnswer, nothing
from poolshift.client.errors import AnswerLost, AnswerTimeout, JobNotOver, PoolshiftError, UnexpectedAnswer
from poolshift.client.executions import Job


@dataclass(frozen=True)
class Retry:
    """The attempts at a call, and the pauses between them."""

    attempts: int = 6
    """Attempts at the most, the first one included; 1 is no retry."""
    first_pause_s: float = 0.2
    """The pause after the first attempt; each next one is twice as long."""
    longest_pause_s: float = 5.0

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.first_pause_s < 0 or self.longest_pause_s < 0:
            raise ValueError(f"{self}: a call has 1 attempt at least, and no pause is negative")

    def pause_s(self, attempts: int, retry_after: float | None, chance: float) -> float:
        """The pause after so many attempts. Chance, from 0 to 1, keeps clients from coming back all at once."""
        backoff: float = min(self.longest_pause_s, self.first_pause_s * 2 ** min(attempts - 1, 30))
        if retry_after is None:
            return backoff * (1 + chance) / 2
        return retry_after + self.first_pause_s * chance


NO_RETRY = Retry(attempts=1)
DONE = RawAnswer(204, {}, b"")
FIRST_LOOK_S = 0.05
LONGEST_LOOK_S = 1.0
"""Pauses between looks at a job, in seconds."""


class Attempts:
    """The attempts at one call within `timeout_s`, pauses included. Does no I/O."""

    def __init__(
        self,
        call: Call[Any],
        retry: Retry,
        timeout_s: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._call = call
        self._retry = retry
        self._clock = clock
        self._chance = chance
        self._count = 1
        self._may_have_arrived = False
        self.timeout_s = timeout_s
        self._end = clock() + timeout_s

    def left_s(self) -> float:
        """The seconds that are left."""
        return max(0.0, self._end - self._clock())

    def timed_out(self) -> AnswerTimeout:
        """Makes the error of a call whose time is over."""
        return AnswerTimeout(f"no answer within {self.timeout_s:g} s{self.unknown()}")

    def unknown(self) -> str:
        """Says that a change may have been made, of a call that makes one."""
        return "" if self._call.method == "GET" else "; whether it was done is not known"

    def settled(self, raw: RawAnswer) -> RawAnswer:
        """Takes "not found" for done if an earlier attempt, whose answer was lost, may have deleted the thing."""
        return DONE if self._may_have_arrived and self._call.read is nothing and raw.status == 404 else raw

    def pause_s(self, error: PoolshiftError) -> float:
        """The pause before the next attempt.

        Raises:
            PoolshiftError: `error`, if there is no further attempt.
        """
        error.attempts = self._count
        if not self._may_repeat(error) or self._count >= self._retry.attempts:
            raise error
        pause_s = self._retry.pause_s(self._count, error.retry_after, self._chance())
        if pause_s >= self.left_s():
            raise error
        self._count += 1
        self._may_have_arrived |= isinstance(error, AnswerLost | UnexpectedAnswer)
        return pause_s

    def _may_repeat(self, error: PoolshiftError) -> bool:
        """Goes by the word of the service; without its word, only an idempotent call may be repeated."""
        if not error.is_transient:
            return False
        return error.retry_safe or (isinstance(error, AnswerLost | UnexpectedAnswer) and self._call.is_idempotent)


class Waiting:
    """Tells how long to wait before the next look at a job. Does no I/O."""

    def __init__(self, timeout_s: float | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._timeout_s = timeout_s
        self._clock = clock
        self._end = None if timeout_s is None else clock() + timeout_s
        self._pause_s = FIRST_LOOK_S

    def pause_s(self, job: Job) -> float:
        """The pause, each twice as long as the one before.

        Raises:
            JobNotOver: the time is over, and the job is not.
        """
        pause_s = self._pause_s
        self._pause_s = min(LONGEST_LOOK_S, 2 * pause_s)
        if self._end is None:
            return pause_s
        left_s = self._end - self._clock()
        if left_s <= 0:
            error = JobNotOver(f"the job {job.execution_id!r} is {job.status} after {self._timeout_s:g} s")
            error.execution_id = job.execution_id
            raise error
        return min(pause_s, left_s)
