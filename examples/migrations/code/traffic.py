"""Orders, of which one in fifty has no items: a voucher."""

from typing import Any


def call(number: int) -> tuple[str, dict[str, Any]]:
    """The program and the inputs of a call."""
    items = 0 if number % 50 == 0 else 1 + number % 4
    if number % 2 == 0:
        return "shipping", {"weights": [700] * items}
    return "total", {"prices": [1990] * items}
