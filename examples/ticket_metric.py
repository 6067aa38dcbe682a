"""A metric for the program `support-ticket` (support_ticket.json), in DSPy's form.

{"id": "support-ticket", …, "idempotent": true, "metric": "examples.ticket_metric:is_useful"}
"""

from typing import Any

MAX_WORDS = 25
LAST_PRIORITY = 5


def is_useful(example: Any, prediction: Any, trace: Any = None) -> float:
    """Scores what the support team got: a short summary in other words, and a priority on the scale."""
    words = prediction.summary.split()
    is_short = 0 < len(words) <= MAX_WORDS
    is_no_copy = prediction.summary.strip() != example.message.strip()
    is_on_scale = 1 <= prediction.priority <= LAST_PRIORITY
    score = (is_short + is_no_copy + is_on_scale) / 3
    return score if trace is None else float(score == 1)  # while DSPy optimizes, only a full score will do
