"""Prices of language models (`LM_PRICES`): what a million tokens cost, in the operator's unit of money."""

import json
from types import MappingProxyType
from typing import Annotated, Final, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

MILLION: Final = 1_000_000
Price = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]


class ModelPrice(NamedTuple):
    """The price of a million tokens that go in, and of a million that come out."""

    prompt: float
    completion: float

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Returns the cost of so many tokens."""
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / MILLION


class _Given(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    input: Price
    output: Price


_models = TypeAdapter(dict[Annotated[str, Field(min_length=1, max_length=256)], _Given])

LMPrices = MappingProxyType[str, ModelPrice]


def parse_prices(text: str) -> LMPrices | None:
    """Reads `{"openai/gpt-5-mini": {"input": 0.25, "output": 2}}`; None if there is no text.

    Raises:
        ValueError: says what is wrong with it, and where.
    """
    if not text.strip():
        return None
    try:
        given = _models.validate_python(json.loads(text))
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc'])) or 'it'}: {first['msg']}") from None
    except (ValueError, RecursionError):
        raise ValueError('must be JSON as {"openai/gpt-5-mini": {"input": 0.25, "output": 2}}') from None
    return MappingProxyType({model: ModelPrice(one.input, one.output) for model, one in given.items()})
