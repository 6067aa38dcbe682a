"""The language model that a call of a DSPy program runs on. The model travels with the call: no worker holds one."""

from dataclasses import dataclass
from typing import Annotated

import msgspec

LOCAL = "local"
"""The model of this name is the small one that the service runs itself."""
NONE = "none"
"""The name that stands for having no model."""
LOCAL_MODEL_NAME = "SmolLM2-135M-Instruct"

MAX_TOKENS = 2**31 - 1
"""In one execution; an LM that reports more is not believed."""
_Tokens = Annotated[int, msgspec.Meta(ge=0, le=MAX_TOKENS)]

_MARGIN = 0.25
_MAX_MARGIN_S = 1.0


class LMSettings(msgspec.Struct, frozen=True, omit_defaults=True):
    """Everything that tells one LM from another; two that are equal are the same LM.

    `model` is what `dspy.LM` takes, such as `openai/gpt-5-mini`. `decodes_schema` says that the endpoint decodes under
    a JSON schema, which the model's name alone would not say.
    """

    model: str
    api_base: str | None = None
    api_key: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    decodes_schema: bool = False

    def __repr__(self) -> str:
        """Without the key: a repr ends up in logs."""
        return f"LMSettings(model={self.model!r}, api_base={self.api_base!r}, api_key={'…' if self.api_key else None})"


class LMUsage(msgspec.Struct, frozen=True):
    """Tokens that an execution used, as the LM counts them."""

    prompt_tokens: _Tokens = 0
    completion_tokens: _Tokens = 0


def token_count(said: object) -> int:
    """The number of tokens that an endpoint has said: any JSON value can come, and a number of any size."""
    return said if isinstance(said, int) and 0 <= said <= MAX_TOKENS else 0


@dataclass(slots=True)
class LMRun:
    """The LM of one execution, in its worker: what it may take, and what it took.

    `streams` says that somebody listens to what it writes.
    """

    settings: LMSettings
    budget_s: float
    streams: bool
    usage: LMUsage | None = None


def lm_budget_s(left_s: float) -> float:
    """The time for the LM out of the time until the deadline, both in seconds.

    The LM's time ends a little earlier. So the caller is told that the LM was slow, and the worker lives on.
    """
    return max(left_s - min(_MARGIN * left_s, _MAX_MARGIN_S), 0.001)
