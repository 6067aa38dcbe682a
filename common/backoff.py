"""The pause before something that ended is started again."""


def backoff_s(failures_in_a_row: int) -> float:
    """Seconds to wait before the next start: none after a success, then 0.1 s, doubling, at most 10 s."""
    return 0.0 if failures_in_a_row == 0 else min(0.1 * 2.0 ** (failures_in_a_row - 1), 10.0)
