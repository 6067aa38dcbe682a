"""The scenarios, one file each; a scenario takes the arena and tells its outcome."""

from collections.abc import Callable
from importlib import import_module

from bench.arena import Arena
from bench.outcome import Outcome


def scenario(name: str) -> Callable[[Arena], Outcome]:
    """The one of `bench.plan.SCENARIOS` with this name."""
    run: Callable[[Arena], Outcome] = import_module(f"bench.scenarios.{name}").run
    return run
