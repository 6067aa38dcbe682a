"""Programs that a validation of the migration runs (`poolshift migration validate`), on any Python of a pool."""

import itertools
import os
import time
from collections.abc import Generator
from typing import Any

_calls = itertools.count(1)


def echo(nonce: str, repeat: int = 1) -> str:
    """Returns the text that it was given, `repeat` times."""
    return nonce * repeat


async def echo_later(nonce: str) -> str:
    """Returns the text that it was given, from a coroutine."""
    return nonce


def interval(seconds: float) -> dict[str, float]:
    """Sleeps, and returns when it began and ended, by the system's clock."""
    began = time.time()
    time.sleep(seconds)
    return {"began": began, "ended": time.time()}


def steps(count: int) -> Generator[dict[str, int], None, int]:
    """Yields its progress, and returns the number of steps."""
    for step in range(count):
        yield {"step": step}
    return count


def raises(message: str) -> str:
    """Raises a ValueError."""
    raise ValueError(message)


def exits(status: int) -> str:
    """Ends its worker at once."""
    os._exit(status)


def wrong_type(nonce: str) -> Any:
    """Returns a number, whatever its signature promises."""
    return len(nonce)


def answer(nonce: str, secret: str = "") -> dict[str, str]:
    """Returns the text, and the default that its definition has for `secret`."""
    return {"nonce": nonce, "secret": secret}


def work(size: int) -> int:
    """Builds and drops a list, as a program that keeps nothing does. Returns the number of calls in this worker."""
    [str(number) for number in range(size)]
    return next(_calls)


class Fails:
    """A program whose setup fails."""

    def setup(self) -> None:
        """Raises a RuntimeError."""
        raise RuntimeError("this setup fails")

    def __call__(self, nonce: str) -> str:
        """Returns the text that it was given."""
        return nonce
