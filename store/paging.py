"""Pages that are bounded by their bytes."""

from collections.abc import Sequence


def fitting(sizes: Sequence[int], max_bytes: int) -> int:
    """Counts how many items of these sizes go on a page: at least one, if there is one."""
    total = 0
    for count, size in enumerate(sizes):
        total += size
        if total > max_bytes and count:
            return count
    return len(sizes)
