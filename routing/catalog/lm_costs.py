"""The cost of tokens: by the prices of `LM_PRICES`, or without these by the price list of genai-prices.

The list is a part of the package: nothing is asked over a network. Its import takes a third of a second and 25 MB, so
a thread loads it, once there is an LM that it may know.
"""

import asyncio
from collections.abc import Callable
from functools import lru_cache
from typing import Final

import structlog

from config.prices import MILLION, LMPrices, ModelPrice
from poolshift.worker.lm import LOCAL, LOCAL_MODEL_NAME, LMSettings, LMUsage

MAX_TOLD: Final = 20
"""Models without a price that the log names: sessions choose the names."""
_MAX_LOOKED_UP: Final = 256
"""Models whose listed price is kept: a look-up takes 0.2 ms."""
_SAMPLE: Final = 1_000
"""Tokens whose price is looked up: few, since some models are dearer for long prompts."""

PriceList = Callable[[str, str | None], ModelPrice | None]
"""Returns the listed price of a model, by its name for DSPy and its endpoint; None if it is not in the list."""
_LOCAL_ENDPOINT: Final = f"openai/{LOCAL_MODEL_NAME}"
"""The name by which workers call the service's own model."""
_log = structlog.stdlib.get_logger("poolshift.lm")


class LMCosts:
    """The cost of executions that used an LM. It is unknown (None) for a model without a price."""

    def __init__(self, prices: LMPrices | None, open_list: Callable[[], PriceList] | None = None) -> None:
        """Takes the prices of `LM_PRICES`, which alone count; None if it is not set, so that the list counts.

        `open_list` loads the list; by default that of genai-prices.
        """
        self._given = prices
        self._open_list = open_list or _open_list
        self._list: PriceList | None = None
        self._told: set[str] = set()

    async def load(self) -> None:
        """Loads the price list, if it counts and is not there yet."""
        if self._given is None and self._list is None:
            self._list = await asyncio.to_thread(self._open_list)

    def of(self, lm: LMSettings, usage: LMUsage) -> float | None:
        """Returns the cost of the tokens that an execution used; None if the model has no price."""
        price = self._price(lm)
        if price is None:
            self._tell(lm.model)
            return None
        return price.cost(usage.prompt_tokens, usage.completion_tokens)

    def _price(self, lm: LMSettings) -> ModelPrice | None:
        if self._given is None:
            return None if self._list is None else self._list(lm.model, lm.api_base)
        return self._given.get(LOCAL if lm.model == _LOCAL_ENDPOINT and LOCAL in self._given else lm.model)

    def _tell(self, model: str) -> None:
        """Tells once that a model has no price. A slip in a name of `LM_PRICES` is one reason."""
        if model in self._told or len(self._told) >= MAX_TOLD or (self._given is not None and not self._given):
            return
        self._told.add(model)
        tell = _log.info if self._given is None else _log.warning
        tell("a model has no price: the cost of its calls is unknown", model=model)


def _open_list() -> PriceList:
    """Loads the list of genai-prices."""
    from genai_prices import Usage, calc_price  # noqa: PLC0415

    sample = Usage(input_tokens=_SAMPLE, output_tokens=_SAMPLE)

    @lru_cache(_MAX_LOOKED_UP)
    def look_up(model: str, api_base: str | None) -> ModelPrice | None:
        """Finds a model by its provider: that of its endpoint, else the one that the beginning of its name says."""
        provider, _, name = model.partition("/")
        try:
            if api_base is not None:
                found = calc_price(sample, model_ref=name, provider_api_url=api_base)
            else:
                found = calc_price(sample, model_ref=name, provider_id=provider)
        except LookupError:
            return None
        return ModelPrice(*(float(price) * MILLION / _SAMPLE for price in (found.input_price, found.output_price)))

    look_up("openai/gpt-5-mini", None)  # the first look-up reads the data
    return look_up
