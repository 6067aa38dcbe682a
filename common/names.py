"""Names a few of many things."""

from collections.abc import Sequence


def first_of(names: Sequence[str], most: int, rest: str) -> str:
    """Names as many as `most`, and the number of the others; `rest` is the word for these."""
    others = len(names) - most
    return ", ".join(names[:most]) + (f" and {others} {rest}" if others > 0 else "")
