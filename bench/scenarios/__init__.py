"""The scenarios, one file each; a scenario takes the arena and tells its outcome."""

from collections.abc import Callable, Mapping

from bench.arena import Arena
from bench.outcome import Outcome
from bench.scenarios import blocking, compute, memory, mixed, overhead, payload, replacement, routing, scale, tail

# The first ones first: what the time does not suffice for is at the end.
SCENARIOS: Mapping[str, Callable[[Arena], Outcome]] = {
    "routing": routing.run,
    "replacement": replacement.run,
    "overhead": overhead.run,
    "blocking": blocking.run,
    "compute": compute.run,
    "payload": payload.run,
    "mixed": mixed.run,
    "tail": tail.run,
    "scale": scale.run,
    "memory": memory.run,
}
