"""The split: which share of the keys is on V2. Pure integer arithmetic behind a hash.

The promise: raising the percentage moves no key back to V1. It holds because a key's bucket never changes and V2 has
the buckets below a threshold that only the percentage sets. 0 % is no bucket, 100 % is every one.
"""

from typing import Final

import mmh3

HASH_VERSION = 1
"""1 is MurmurHash3 (x86, 32 bits, seed 1) of `salt:key` in UTF-8.

Another hash gets another number, golden vectors of its own and an ADR, since it tears every session from its version.
"""

BUCKETS: Final = 2**32
BASIS_POINTS = 10_000
"""The percentage is held in hundredths of a percent, so that every step is exact."""


def bucket(salt: str, key: str) -> int:
    """Where `key` falls, from 0 to 2³² - 1."""
    return mmh3.hash(f"{salt}:{key}", HASH_VERSION, signed=False)


def threshold(canary_basis_points: int) -> int:
    """The first bucket that is not V2's."""
    return canary_basis_points * BUCKETS // BASIS_POINTS


def is_canary(bucket_number: int, canary_basis_points: int) -> bool:
    """Whether a bucket is on V2."""
    return bucket_number < threshold(canary_basis_points)
