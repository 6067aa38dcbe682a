"""The words for what V2's pool changes."""

from dataclasses import replace

from app.positions.difference import PoolIdentity, difference
from config.pools import PoolSpec


def identity(python: str | None, *, interpreter: str | None = None, revision: str | None = "4f2c1a") -> PoolIdentity:
    spec = PoolSpec(engine="session_pool_v2", python=interpreter, pool_size=2)
    return PoolIdentity(spec=spec, python=python, packages={"six": "1.17.0"}, programs_revision=revision, lm=None)


def test_nothing_is_called_none_that_is_there() -> None:
    """Without a setting the interpreter is the service's; a pool that cannot start has a Python that nobody knows."""
    own = identity("3.11.7")
    assert difference(own, own).summary == "nothing"
    other = identity("3.13.5", interpreter="new/bin/python")
    assert difference(own, other).summary == "python 3.11.7 → 3.13.5; interpreter the service's → new/bin/python"
    broken = identity(None, interpreter="nowhere", revision=None)
    told = difference(own, broken).summary
    assert told == "python 3.11.7 → unknown; interpreter the service's → nowhere; programs at 4f2c1a → unknown"
    model = PoolIdentity(spec=own.spec, python="3.11.7", packages=own.packages, programs_revision="4f2c1a", lm="local")
    assert difference(own, model).summary == "lm none → local"


def test_settings_of_one_model_are_a_difference() -> None:
    """The same model with fewer tokens answers otherwise."""
    usual = replace(identity("3.11.7"), lm="local", lm_settings={"temperature": "0.5"})
    short = replace(usual, lm_settings={"temperature": "0.5", "max_tokens": "16"})
    assert difference(usual, short).summary == "lm max_tokens none → 16"
    assert difference(short, usual).summary == "lm max_tokens 16 → none"


def test_own_definitions_are_named_or_counted() -> None:
    """They are a difference although the pools have none."""
    own = identity("3.11.7")
    two, many = replace(own, own_definitions=["ask", "price"]), replace(own, own_definitions=list("abcd"))
    assert difference(own, two).summary == "own definitions none → ask, price"
    assert difference(own, many).summary == "own definitions none → 4 programs"
