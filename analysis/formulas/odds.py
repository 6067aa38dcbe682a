"""The odds test: the one formula behind every guardrail.

A call was assigned to V2 with probability w. Given that an event happened to it (a fault, a slow answer, or simply
that it was there), the probability that the event is V2's is

    p(R) = w·R / (1 − w + w·R)

for the ratio R of the two versions' hazards. An event's factor is the likelihood ratio of R against a null ratio r:

    V2's: p(R) / p(r)        V1's: (1 − p(R)) / (1 − p(r))

Its mean at the true ratio r is exactly 1. For R > r the mean is at most 1 at every true ratio below r, for R < r at
every one above. Hence the product of factors is a non-negative supermartingale that begins at 1, and by Ville's
inequality the probability that it ever reaches 1/α is at most α, however often one looks. A base rate that drifts for
both versions alike cancels.

Sources: Lindon & Malek, "Anytime-Valid Inference for Multinomial Count Data", NeurIPS 2022 (the conditional form;
one-sided here); Wald, "Sequential Analysis", 1947 (the likelihood ratio); Ville, 1939, and Ramdas & Waudby-Smith et
al., "Game-Theoretic Statistics and Safe Anytime-Valid Inference", Statistical Science 2023 (the guarantee).
"""

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache

Cell = tuple[float, int, int]
"""Events of one step: the canary probability w, V1's count, V2's count."""


def log_factors(w: float, ratio: float, null: float = 1.0) -> tuple[float, float]:
    """Logarithms of an event's factor on V1 and on V2, for the alternative `ratio` against `null`."""
    log_z = math.log((1 - w + w * null) / (1 - w + w * ratio))
    return log_z, math.log(ratio / null) + log_z


def log_sum_exp(terms: Sequence[float]) -> float:
    """Logarithm of the sum of the terms' exponentials."""
    top = max(terms)
    if top == -math.inf:
        return top
    return top + math.log(sum([math.exp(term - top) for term in terms]))


class Mixture:
    """An average of odds tests over alternatives, taken when one looks; an average of e-processes is an e-process."""

    __slots__ = ("_factors", "log_priors", "null", "ratios")

    def __init__(self, null: float, ratios: Sequence[float], priors: Sequence[float]) -> None:
        self.null = null
        self.ratios = tuple(ratios)
        self.log_priors = tuple(math.log(prior) for prior in priors)
        self._factors: dict[float, tuple[tuple[float, float], ...]] = {}

    def log_e(self, cells: Iterable[Cell]) -> float:
        """Log e-value of all events: log Σ_R prior·exp(Σ_step [n1·ln(1 − p(R))/(1 − p(r)) + n2·ln p(R)/p(r)])."""
        totals = list(self.log_priors)
        for w, v1, v2 in cells:
            for index, (log_v1, log_v2) in enumerate(self._of_step(w)):
                totals[index] += v1 * log_v1 + v2 * log_v2
        return log_sum_exp(totals)

    def _of_step(self, w: float) -> tuple[tuple[float, float], ...]:
        factors = self._factors.get(w)
        if factors is None:
            factors = tuple(log_factors(w, ratio, self.null) for ratio in self.ratios)
            self._factors[w] = factors
        return factors


WORSE_RATIOS = (1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 300.0)
WORSE_PRIORS = (0.16, 0.24, 0.20, 0.15, 0.12, 0.08, 0.05)

NOT_WORSE_RATIOS = (0.65, 0.5, 0.35, 0.1)
"""Ratios, as shares of the margin."""
NOT_WORSE_PRIORS = (0.2, 0.5, 0.2, 0.1)

SPLIT_RATIOS = (0.1, 0.5, 0.75, 0.85, 0.92, 1.08, 1.17, 1.33, 2.0, 10.0)
SPLIT_PRIORS = (0.05, 0.08, 0.1, 0.14, 0.13, 0.13, 0.14, 0.1, 0.08, 0.05)


@lru_cache(maxsize=256)
def worse_than(null: float) -> Mixture:
    """Evidence that V2's hazard is more than `null` times V1's."""
    return Mixture(null, [null * ratio for ratio in WORSE_RATIOS], WORSE_PRIORS)


@lru_cache(maxsize=256)
def better_than(margin: float) -> Mixture:
    """Evidence that V2's hazard is less than `margin` times V1's: the test of non-inferiority, and an upper bound."""
    return Mixture(margin, [margin * ratio for ratio in NOT_WORSE_RATIOS], NOT_WORSE_PRIORS)


SPLIT = Mixture(1.0, SPLIT_RATIOS, SPLIT_PRIORS)
"""Evidence, in both directions, that calls are not split as the router was told to."""
