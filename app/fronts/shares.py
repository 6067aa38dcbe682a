"""The rule by which workers move between the service and its fronts: a pure function of who needs and who has how many.

The fair part of a party is its need, or, if there are fewer workers than needed, the same share of it as everybody's.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

SERVICE: Final = 0
"""The service's place among the parties; the fronts follow."""
MOVES_AT: Final = 1.25
"""A worker moves if the receiver lacks more than the giver by this. By 1.0 or less it would come back."""
_HAS_NONE: Final = 2.0
"""The lack of who needs a worker and has none, however small his part is."""


class Party(NamedTuple):
    """The service, or a front: its calls that run and wait, and its workers but for those that are about to leave."""

    need: int
    has: int


class Move(NamedTuple):
    """A worker's next move: an idle one of the service goes to the front `to`, or `giver` gives one back."""

    to: int | None = None
    giver: int | None = None
    is_urgent: bool = False
    """True if somebody who needs a worker has none."""


def next_move(parties: Sequence[Party], workers: int, idle: int) -> Move | None:
    """Returns the next move; None if none would bring the parties nearer to their parts.

    Nobody gives his last worker while he needs it, unless there are fewer workers than parties that need one. Those go
    round in turns.

    Args:
        parties: the service, and then each front.
        workers: the number of all workers.
        idle: the number of those that are idle at the service.
    """
    share = min(1.0, workers / max(1, sum([party.need for party in parties])))
    lacks = [_lack(party, share) for party in parties]
    receiver = max(range(len(parties)), key=lacks.__getitem__)
    givers = [one for one in _givers(parties, workers, idle) if one != receiver]
    giver = min(givers, key=lacks.__getitem__, default=None)
    if giver is None or lacks[receiver] - lacks[giver] < MOVES_AT:
        return None
    if giver == SERVICE:
        return Move(to=receiver)
    return Move(giver=giver, is_urgent=lacks[receiver] >= _HAS_NONE)


def _givers(parties: Sequence[Party], workers: int, idle: int) -> list[int]:
    """Lists who could give a worker."""
    is_scarce = workers < sum([party.need > 0 for party in parties])
    able = [one for one, party in enumerate(parties) if party.has > 1 or not party.need or is_scarce]
    return [one for one in able if (idle if one == SERVICE else parties[one].has > 0)]


def _lack(party: Party, share: float) -> float:
    """Tells how many workers a party lacks; below 0, how many it could spare."""
    return _HAS_NONE if party.need and party.has <= 0 else party.need * share - party.has
