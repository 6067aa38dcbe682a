"""Objects that an entrypoint may name, and the messages about all others."""

import functools
from typing import Any

import pytest

from poolshift.worker.callables import fault_of, module_of
from tests.support.programs import echo


def plain() -> None: ...


@functools.lru_cache(maxsize=8)
def cached(number: int) -> int:
    return number


@functools.lru_cache
async def cached_async(number: int) -> int:
    return number


def endless() -> None: ...


endless.__wrapped__ = endless  # type: ignore[attr-defined]


class Called:
    def __call__(self) -> None: ...

    def method(self) -> None: ...


@pytest.mark.parametrize(
    ("found", "kind"),
    [
        (cached, None),
        (plain, None),
        (cached_async, "a cached async function"),
        (Called().method, "a method"),
        (len, "a builtin function"),
        (Called(), "a `tests.unit.test_entrypoint_rules.Called`"),
        (functools, "a module"),
        (5, "a `int`"),
    ],
)
def test_what_may_be_an_entrypoint(found: Any, kind: str | None) -> None:
    """A function, also behind a cache; of anything else the message says what it is and what is expected."""
    fault = fault_of(found)
    if kind is None:
        assert fault is None
    else:
        assert fault is not None
        assert fault.startswith(kind)
        assert "entrypoint is `module:function`" in fault or "cached" in fault


def test_the_module_that_counts_is_the_innermost_functions() -> None:
    """A decorator in an allowed module makes no imported function the module's own."""
    assert module_of(cached) == __name__
    assert module_of(functools.lru_cache(echo)) == echo.__module__
    assert module_of(endless) == __name__
