"""The rule by which workers move between the service and its fronts: a pure function of who needs and who has how many.

The fair part of a party is its need, or, if there are fewer workers than needed, the same share of it as everybody's.
Parts are seldom whole numbers, and workers are. So a worker also moves to the party whose oldest call has waited
longest, as it would be served next if there were one queue, and moves back when another's has.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

SERVICE: Final = 0
"""The service's place among the parties; the fronts follow."""
MOVES_AT: Final = 1.25
"""A worker moves if the receiver lacks more than the giver by this. By 1.0 or less it would come back."""
TURN_AT: Final = 0.25
"""The same for a receiver whose oldest call has clearly waited longer than the giver's."""
_CLEARLY: Final = 1.25
_CLEARLY_S: Final = 0.01
"""A wait is clearly longer than another by this factor and this time in seconds: more than what a move takes."""
_HAS_NONE: Final = 2.0
"""The lack of who needs a worker and has none, however small his part is, unless others have clearly waited longer."""


class Party(NamedTuple):
    """The service, or a front: its calls that run and wait, and its workers but for those that are about to leave.

    `oldest_s` is the time that the oldest of its waiting calls has waited, in seconds; 0 if none waits.
    """

    need: int
    has: int
    oldest_s: float = 0.0

    def waits_longer(self, other: "Party") -> bool:
        """Tells if its oldest call has clearly waited longer than that of another."""
        return self.oldest_s > _CLEARLY * other.oldest_s + _CLEARLY_S


class Move(NamedTuple):
    """A worker's next move: an idle one of the service goes to the front `to`, or `giver` gives one back."""

    to: int | None = None
    giver: int | None = None
    is_urgent: bool = False
    """True if somebody who needs a worker has none."""


def next_move(parties: Sequence[Party], workers: int, idle: int) -> Move | None:
    """Returns the next move; None if none would bring the parties nearer to their parts.

    Nobody gives to a party whose calls have clearly waited less. Nobody gives his last worker while he needs it, unless
    the receiver's calls have clearly waited longer, or there are fewer workers than parties that need one. Those go
    round in turns.

    Args:
        parties: the service, and then each front.
        workers: the number of all workers.
        idle: the number of those that are idle at the service.
    """
    share = min(1.0, workers / max(1, sum([party.need for party in parties])))
    oldest = max(range(len(parties)), key=lambda one: parties[one].oldest_s)
    lacks = [_lack(party, share, parties[oldest]) for party in parties]
    neediest = max(range(len(parties)), key=lacks.__getitem__)
    is_scarce = workers < sum([party.need > 0 for party in parties])
    receivers = (neediest, oldest) if lacks[neediest] >= _HAS_NONE else (oldest, neediest)
    for receiver in receivers:
        giver = _giver_to(receiver, parties, lacks, idle, is_scarce=is_scarce)
        if giver == SERVICE:
            return Move(to=receiver)
        if giver is not None:
            return Move(giver=giver, is_urgent=lacks[receiver] >= _HAS_NONE)
    return None


def _giver_to(
    receiver: int, parties: Sequence[Party], lacks: Sequence[float], idle: int, *, is_scarce: bool
) -> int | None:
    """Finds who gives a worker to the receiver; None if nobody can, or it would not be fairer."""
    to = parties[receiver]
    has = [idle, *(party.has for party in parties[SERVICE + 1 :])]
    others = [one for one in range(len(parties)) if one != receiver and has[one] > 0]
    able = [one for one in others if _may_give(parties[one], to, is_scarce=is_scarce)]
    giver = min(able, key=lacks.__getitem__, default=None)
    if giver is None:
        return None
    least = TURN_AT if to.waits_longer(parties[giver]) else MOVES_AT
    return giver if lacks[receiver] - lacks[giver] >= least else None


def _may_give(party: Party, to: Party, *, is_scarce: bool) -> bool:
    """Tells if a party may give a worker: by the waits of both, and, of its last worker, by its need."""
    if party.waits_longer(to):
        return False
    return party.has > 1 or not party.need or is_scarce or to.waits_longer(party)


def _lack(party: Party, share: float, oldest: Party) -> float:
    """Tells how many workers a party lacks; below 0, how many it could spare."""
    if party.need and party.has <= 0 and not oldest.waits_longer(party):
        return _HAS_NONE
    return party.need * share - party.has
