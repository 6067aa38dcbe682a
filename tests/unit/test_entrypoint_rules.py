"""Objects that an entrypoint may name, and the messages about all others."""

import abc
import functools
import typing
from typing import Any

import pytest

from poolshift.worker.callables import fault_of, fault_of_class, module_of
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


class NeedsArguments:
    def __init__(self, weights: str) -> None: ...

    def __call__(self) -> None: ...


class SetUpWith(Called):
    def setup(self, weights: str) -> None: ...


class SetUp(Called):
    def __init__(self, weights: str = "small") -> None: ...

    async def setup(self, again: int = 1) -> None: ...

    @staticmethod
    def teardown() -> None: ...


class Abstract(Called, abc.ABC):
    @abc.abstractmethod
    def method(self) -> None: ...


class Protocol(typing.Protocol):
    def __call__(self) -> None: ...


class OfC(Exception):
    """A class whose constructor has no signature."""

    def __call__(self) -> None: ...


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (Called, None),
        (SetUp, None),
        (OfC, None),
        (type("Empty", (), {}), "has no method __call__"),
        (NeedsArguments, "is made without arguments: missing a required argument: 'weights'"),
        (SetUpWith, "has a method setup that is called without arguments: missing a required argument: 'weights'"),
        (Abstract, "is abstract"),
        (Protocol, "is abstract"),
    ],
)
def test_which_classes_may_be_entrypoints(found: type, says: str | None) -> None:
    """One that no worker could make or set up is refused at once, and not at its first call."""
    assert fault_of_class(found, ("setup", "teardown")) == says


def test_the_module_that_counts_is_the_innermost_functions() -> None:
    """A decorator in an allowed module makes no imported function the module's own."""
    assert module_of(cached) == __name__
    assert module_of(functools.lru_cache(echo)) == echo.__module__
    assert module_of(endless) == __name__
