"""The cost of tokens: whose prices count, what is unknown, and who is told."""

import asyncio
import os
import subprocess
import sys
import threading

import pytest
import structlog
from prometheus_client import CollectorRegistry

from config.prices import ModelPrice, parse_prices
from poolshift.worker.lm import LMSettings, LMUsage
from routing.catalog.lm_costs import MAX_TOLD, LMCosts, PriceList
from routing.telemetry.families import LMMetrics
from routing.versions import Version

USAGE = LMUsage(1_000_000, 500_000)


def lm(model: str, api_base: str | None = None) -> LMSettings:
    return LMSettings(model, api_base, None)


def refuse_to_open() -> PriceList:
    raise AssertionError("the list is not asked for")


def test_given_prices_count_alone_and_a_model_without_one_is_told_once() -> None:
    """A slip in a name would make its model the cheapest, and the guardrail cost would see nothing."""
    prices = parse_prices('{"openai/gpt-5-mini": {"input": 1, "output": 2}, "local": {"input": 1, "output": 0}}')
    costs = LMCosts(prices, refuse_to_open)
    asyncio.run(costs.load())
    with structlog.testing.capture_logs() as logged:
        models = ("openai/gpt-5-mini", "openai/SmolLM2-135M-Instruct", "openai/gpt-5", "openai/gpt-5")
        assert [costs.of(lm(model), USAGE) for model in models] == [2.0, 1.0, None, None]
    assert [(one["log_level"], one["model"]) for one in logged] == [("warning", "openai/gpt-5")]


def test_no_prices_may_be_given_on_purpose() -> None:
    """`LM_PRICES={}`: no cost is known, and the log does not say so for each model."""
    costs = LMCosts(parse_prices("{}"), refuse_to_open)
    asyncio.run(costs.load())
    with structlog.testing.capture_logs() as logged:
        assert costs.of(lm("openai/gpt-5-mini"), USAGE) is None
    assert logged == []


def test_the_list_is_opened_once_and_off_the_event_loop() -> None:
    threads: list[int] = []

    def open_list() -> PriceList:
        threads.append(threading.get_ident())
        return lambda model, _: ModelPrice(1.0, 2.0) if model == "a/known" else None

    async def use() -> list[float | None]:
        costs = LMCosts(None, open_list)
        for _ in range(2):
            await costs.load()
        return [costs.of(lm(model), USAGE) for model in ("a/known", "a/other")]

    assert asyncio.run(use()) == [2.0, None]
    assert len(threads) == 1
    assert threads[0] != threading.get_ident()


def test_nobody_fills_the_log_with_names_of_models() -> None:
    costs = LMCosts(None)
    with structlog.testing.capture_logs() as logged:
        for number in range(3 * MAX_TOLD):
            costs.of(lm(f"openai/{number}"), USAGE)
    assert len(logged) == MAX_TOLD


@pytest.mark.parametrize(
    ("model", "api_base", "is_known"),
    [
        ("openai/gpt-5-mini", None, True),
        ("anthropic/claude-sonnet-4-5", None, True),
        ("gemini/gemini-2.5-pro", None, True),
        ("azure/gpt-4o", "https://mine.openai.azure.com", True),
        ("openai/deepseek-chat", "https://api.deepseek.com/v1", True),
        ("openai/gpt-5-mini", "http://127.0.0.1:11434/v1", False),
        ("openai/no-such-model", None, False),
        ("no-such-provider/gpt-5-mini", None, False),
        ("gpt-5-mini", None, False),
        ("", None, False),
    ],
)
def test_the_list_knows_the_models_of_providers(model: str, api_base: str | None, *, is_known: bool) -> None:
    """By the names that DSPy takes. A model at another endpoint than its provider's has no price that we know."""
    costs = LMCosts(None)
    asyncio.run(costs.load())
    found = costs.of(lm(model, api_base), USAGE)
    assert (found is not None and 0.01 < found < 100) if is_known else found is None


def test_a_price_is_that_of_a_short_prompt() -> None:
    """An execution's tokens are those of several calls: a surcharge for long prompts would be wrong for them."""
    costs = LMCosts(None)
    asyncio.run(costs.load())
    one = costs.of(lm("gemini/gemini-2.5-pro"), LMUsage(1_000, 1_000))
    many = costs.of(lm("gemini/gemini-2.5-pro"), LMUsage(1_000_000, 1_000_000))
    assert one is not None
    assert many == pytest.approx(1_000 * one)


def test_nothing_is_imported_before_it_is_needed() -> None:
    """The list takes 25 MB, which a service without an LM does without."""
    code = "import sys, app.lifespan, routing.catalog.lm_costs; assert 'genai_prices' not in sys.modules"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env=environment)


def test_an_unknown_cost_is_no_cost_of_0() -> None:
    """The metrics count its tokens, and have no figure for its cost."""
    registry = CollectorRegistry()
    metrics = LMMetrics(registry, tuple(Version))
    for use in (metrics.used, metrics.used_in_shadow):
        use(Version.V1, "known", USAGE, 2.0)
        use(Version.V1, "unknown", USAGE, None)
    for name in ("poolshift_lm", "poolshift_shadow_lm"):
        costs = [
            registry.get_sample_value(f"{name}_cost_total", {"pool_version": "v1", "model": model})
            for model in ("known", "unknown")
        ]
        assert costs == [2.0, None]
        labels = {"pool_version": "v1", "model": "unknown", "kind": "prompt"}
        assert registry.get_sample_value(f"{name}_tokens_total", labels) == 1_000_000
