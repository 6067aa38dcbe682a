"""The cost of tokens by version: what a model without a price costs, and who is told."""

import structlog
from prometheus_client import CollectorRegistry

from config.prices import parse_prices
from poolshift.worker.lm import LMUsage
from routing.telemetry.families import LMMetrics
from routing.versions import Version

USAGE = LMUsage(1_000_000, 500_000)


def test_a_model_without_a_price_is_told_once() -> None:
    """A slip in a name would make its model the cheapest, and the guardrail cost would see nothing."""
    prices = parse_prices('{"openai/mini": {"input": 0.25, "output": 2}, "local": {"input": 1, "output": 0}}')
    metrics = LMMetrics(CollectorRegistry(), prices, tuple(Version))
    with structlog.testing.capture_logs() as logged:
        costs = [
            metrics.used(version, model, USAGE)
            for model in ("openai/mini", "openai/SmolLM2-135M-Instruct", "openai/large")
            for version in Version
        ]
    assert costs == [1.25, 1.25, 1.0, 1.0, 0.0, 0.0]
    assert [(one["log_level"], one["model"]) for one in logged] == [("warning", "openai/large")]
    with structlog.testing.capture_logs() as logged:
        assert LMMetrics(CollectorRegistry(), parse_prices(""), tuple(Version)).used(Version.V1, "m", USAGE) == 0.0
    assert logged == []
