"""The split: golden vectors, no drift on a ramp, no bias."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.rollout.model import to_basis_points
from routing.split import BASIS_POINTS, BUCKETS, bucket, threshold

keys = st.text(max_size=64)
basis_points = st.integers(0, BASIS_POINTS)


@pytest.mark.parametrize(
    ("salt", "key", "expected"),
    [
        ("poolshift", "", 1529565027),
        ("poolshift", "a", 1725936459),
        ("poolshift", "session-1", 2069325871),
        ("poolshift", "session-2", 751552646),
        ("other", "session-1", 3026142933),
        ("poolshift", "ünïcode ☃", 3778934539),
        ("poolshift", "x" * 256, 1632616736),
    ],
)
def test_golden_vectors(salt: str, key: str, expected: int) -> None:
    """A key's bucket is for ever: another value here tears running sessions from their version."""
    assert bucket(salt, key) == expected


def test_the_hash_is_murmur3() -> None:
    """The vectors are those of the published function: MurmurHash3_x86_32 of `:` with seed 1."""
    assert bucket("", "") == _murmur3_32(b":", 1)
    assert bucket("poolshift", "session-1") == _murmur3_32(b"poolshift:session-1", 1)


def is_canary(number: int, points: int) -> bool:
    """Tells if a bucket belongs to V2."""
    return number < threshold(points)


@given(keys, basis_points, basis_points)
def test_a_ramp_moves_nobody_back(key: str, one: int, other: int) -> None:
    """Whoever is on V2 at a percentage is on V2 at every higher one."""
    lower, higher = sorted((one, other))
    number = bucket("poolshift", key)
    assert not is_canary(number, lower) or is_canary(number, higher)


@given(keys)
def test_none_at_0_and_all_at_100(key: str) -> None:
    """The ends are exact."""
    number = bucket("poolshift", key)
    assert not is_canary(number, 0)
    assert is_canary(number, BASIS_POINTS)


@given(st.integers(0, BASIS_POINTS - 1))
def test_every_step_of_a_hundredth_percent_moves_buckets(points: int) -> None:
    """0.01 % more is a ten-thousandth of all buckets more, to within one bucket."""
    assert threshold(points + 1) - threshold(points) in (BUCKETS // BASIS_POINTS, BUCKETS // BASIS_POINTS + 1)


def test_it_is_unbiased() -> None:
    """Over 100 bins, 100,000 keys of the shapes that clients use are as even as chance (chi-square, p > 0.001)."""
    for shape in ("session-{}", "{}", "user:{}@example.org", "00000000-0000-4000-8000-{:012d}"):
        bins = [0] * 100
        for number in range(100_000):
            bins[bucket("poolshift", shape.format(number)) * 100 // BUCKETS] += 1
        chi_square = sum((count - 1000) ** 2 / 1000 for count in bins)
        # 99 degrees of freedom: mean 99, standard deviation sqrt(198); 3.3 of them are one in a thousand.
        assert chi_square < 99 + 3.3 * math.sqrt(198), shape


def test_another_salt_is_another_population() -> None:
    """Under another salt, the canary has only its share of the first canary's keys."""
    canary = [key for key in map(str, range(100_000)) if is_canary(bucket("one", key), 1000)]
    again = sum(is_canary(bucket("two", key), 1000) for key in canary)
    assert 0.08 < again / len(canary) < 0.12


@pytest.mark.parametrize(
    ("percent", "points"), [(0, 0), (0.01, 1), (0.07, 7), (29.29, 2929), (99.99, 9999), (100, 10000)]
)
def test_percentages_are_exact(percent: float, points: int) -> None:
    """No step is lost to binary fractions."""
    assert to_basis_points(percent) == points


@pytest.mark.parametrize("percent", [-0.01, 100.01, 0.005, math.nan, math.inf])
def test_what_is_no_percentage_is_refused(percent: float) -> None:
    """Neither rounded nor cut off."""
    with pytest.raises((ValueError, ArithmeticError)):
        to_basis_points(percent)


def _murmur3_32(data: bytes, seed: int) -> int:
    """MurmurHash3_x86_32 as A. Appleby published it, in plain Python."""
    mask = 0xFFFFFFFF

    def rotate(value: int, by: int) -> int:
        return (value << by | value >> (32 - by)) & mask

    def scramble(block: int) -> int:
        return rotate(block * 0xCC9E2D51 & mask, 15) * 0x1B873593 & mask

    state = seed
    whole = len(data) // 4 * 4
    for start in range(0, whole, 4):
        state ^= scramble(int.from_bytes(data[start : start + 4], "little"))
        state = (rotate(state, 13) * 5 + 0xE6546B64) & mask
    if data[whole:]:
        state ^= scramble(int.from_bytes(data[whole:], "little"))
    state ^= len(data)
    for multiplier, shift in ((0x85EBCA6B, 16), (0xC2B2AE35, 13)):
        state ^= state >> shift
        state = state * multiplier & mask
    return state ^ state >> 16
