"""Short texts on a few topics."""

from typing import Any

TEXTS = (
    "It rained all night, and the wind took two roofs along.",
    "The keeper saved two penalties, and the match went into extra time.",
    "The bank raised its rates, and the markets fell within minutes.",
)


def call(number: int) -> tuple[str, dict[str, Any]]:
    """The program and the inputs of a call."""
    return "retell", {"text": f"{TEXTS[number % len(TEXTS)]} (Note {number}.)"}
