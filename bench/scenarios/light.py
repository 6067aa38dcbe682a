"""The same as the tail at a lighter load, half of what mosec can do: there is no goal for it, but a reader may ask."""

from bench.arena import Arena
from bench.contenders import MOSEC
from bench.outcome import Outcome
from bench.scenarios.tail import at_half_of_the_peak


def run(arena: Arena) -> Outcome:
    """V2 and mosec, at half of mosec's peak."""
    contenders = [arena.v2(), *arena.peers(MOSEC)]
    return at_half_of_the_peak(arena, "light", contenders, of=MOSEC.name)
