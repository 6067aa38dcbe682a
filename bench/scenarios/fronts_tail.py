"""The same as the tail at the higher rate that is half of the peak with fronts, against mosec at the same rate."""

from dataclasses import replace

from bench.arena import FRONTS, Arena
from bench.contenders import MOSECS
from bench.outcome import Outcome, at_most
from bench.scenarios.tail import against_mosec, at_half_of_the_peak


def run(arena: Arena) -> Outcome:
    """V2 with fronts, and mosec in two ways. On many cores, V2 without them could not serve as many calls."""
    outcome = at_half_of_the_peak(arena, "fronts_tail", [arena.fronts(), *arena.peers(*MOSECS)], of=FRONTS)
    text = "p99 at half of the peak load, against mosec at the same rate"
    return replace(outcome, goals=[at_most(text, 0.5, against_mosec(outcome.loads, FRONTS), contender=FRONTS)])
