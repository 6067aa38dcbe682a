"""The split: the share of the keys that V2 has. Pure integer arithmetic behind a hash.

Raising the percentage moves no key back to V1: a key's bucket never changes, and V2 has the buckets below a threshold
that only the percentage sets. 0 % is no bucket, 100 % is every bucket.
"""

from typing import Final

import mmh3

HASH_VERSION = 1
"""1 is MurmurHash3 (x86, 32 bits, seed 1) of `salt:key` in UTF-8.

A new hash needs a new number, golden vectors and an ADR, since it tears every session from its version.
"""

BUCKETS: Final = 2**32
BASIS_POINTS = 10_000
"""Hundredths of a percent, in which the percentage is held, so that every step is exact."""


def bucket(salt: str, key: str) -> int:
    """The bucket of `key`, from 0 to 2³² - 1."""
    return mmh3.hash(f"{salt}:{key}", HASH_VERSION, signed=False)


def threshold(canary_basis_points: int) -> int:
    """The first bucket that belongs to V1."""
    return canary_basis_points * BUCKETS // BASIS_POINTS
