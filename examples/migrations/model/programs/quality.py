"""The metric of the example: an answer must be a sentence of some length."""

from typing import Any

FEWEST_WORDS = 9


def is_told(inputs: dict[str, Any], outputs: dict[str, Any]) -> float:
    """1 if the text was retold in at least `FEWEST_WORDS` words."""
    return float(len(outputs["retold"].split()) >= FEWEST_WORDS)
