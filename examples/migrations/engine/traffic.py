"""Questions, each of its own."""

from typing import Any


def call(number: int) -> tuple[str, dict[str, Any]]:
    """The program and the inputs of a call."""
    return "answer", {"question": f"Where is order {number}?"}
