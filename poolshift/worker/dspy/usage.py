"""The tokens of a call: those of all requests to LMs, in whatever thread."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import dspy
from dspy.utils.usage_tracker import UsageTracker

from poolshift.worker.lm import MAX_TOKENS, LMRun, LMUsage, token_count


class _SharedTracker(UsageTracker):  # type: ignore[misc]  # DSPy is without types
    """DSPy's tracker, which its threads would copy: the tokens of a copy are lost."""

    def __deepcopy__(self, memo: Any) -> "_SharedTracker":
        return self


@contextmanager
def counted_for(lm: LMRun) -> Iterator[None]:
    """Counts the tokens of the block as the call's, even if the block raises."""
    tracker = _SharedTracker()
    try:
        with dspy.context(usage_tracker=tracker):
            yield
    finally:
        lm.usage = total(list(tracker.usage_data.values()))


def total(entries_of_models: Iterable[list[dict[str, Any]]]) -> LMUsage:
    """The tokens of all calls of the LM; what an endpoint does not tell, or what cannot be, counts as none."""
    entries = [entry for entries in entries_of_models for entry in entries]
    return LMUsage(_sum(entries, "prompt_tokens"), _sum(entries, "completion_tokens"))


def _sum(entries: list[dict[str, Any]], name: str) -> int:
    return min(sum(token_count(entry.get(name)) for entry in entries), MAX_TOKENS)
