"""The ramp's steps, and the start copies that begin at each of them."""

from collections.abc import Sequence

StepId = tuple[float, int]
"""A step's canary probability, and how often the judge was restarted within it. Sorted in the order of the ramp."""

FIRST_SHARE = 0.70
LATER_SHARE = 0.28
EXTRA_SHARE = 0.02
MAX_COPIES = 16
"""Start copies; later steps count in the copies that there are."""


def copy_shares(steps: Sequence[StepId], planned: Sequence[float]) -> list[float]:
    """Each start copy's share of a guardrail's α, one for each step so far. The sum is at most 1 for any ramp.

    A copy counts only from its step on, so that evidence from before does not drown a regression that begins late. α is
    split over the copies (a union bound), since each has marks of keys, and hence a filtration, of its own. Planned
    steps share equally; steps that nobody planned, and restarts, have shares 1/(m·(m+1)) of the rest.
    """
    shares: list[float] = []
    later = extras = 0
    for position, (w, restarts) in enumerate(steps):
        is_planned = not restarts and w in planned
        if position == 0:
            shares.append(FIRST_SHARE if len(planned) != 1 else FIRST_SHARE + LATER_SHARE)
        elif position >= MAX_COPIES:
            shares.append(0.0)
        elif not planned and not restarts:
            shares.append(LATER_SHARE / (position * (position + 1)))
        elif is_planned and later < len(planned) - 1:
            later += 1
            shares.append(LATER_SHARE / (len(planned) - 1))
        else:
            extras += 1
            shares.append(EXTRA_SHARE / (extras * (extras + 1)))
    return shares


def comparable(w: float) -> bool:
    """Tells if both versions get calls: without both there is nothing to compare."""
    return 0.0 < w < 1.0
