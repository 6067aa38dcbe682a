"""Durations in words."""


def duration_text(seconds: float) -> str:
    """Tells a duration in the largest unit of which it has two, such as "6 min"."""
    for size, unit in ((86_400, "days"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
