"""The outputs' texts on their way to whoever listens, while the LM writes them."""

from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

import dspy

from poolshift.worker.dspy.output_text import ChatText, JSONText, OutputText
from poolshift.worker.loading import Emit


class OutputEvents:
    """Emits `{"field": …, "chunk": …}` for the outputs that are texts. A field's chunks add up to the output."""

    def __init__(self, texts: Mapping[str, str], emit: Emit, *, as_json: bool) -> None:
        """`texts` has for each output that is one its name in the prompt; `as_json` says how the LM answers."""
        self._names = {in_prompt: name for name, in_prompt in texts.items()}
        self._text: OutputText = JSONText() if as_json else ChatText()
        self._emit = emit
        self._said = dict.fromkeys(texts, "")

    def take(self, written: str) -> None:
        """The LM has written so much more."""
        for field, piece in self._text.feed(written):
            if field in self._names:
                self._say(self._names[field], piece)

    def finish(self, outputs: Mapping[str, Any]) -> None:
        """Emits what was held back of the `outputs`, which DSPy has read from the whole of the answer.

        Raises ValueError if that differs from the text that was emitted already.
        """
        for name, said in self._said.items():
            text = outputs[name] or ""
            if not text.startswith(said):
                raise ValueError(f"the output {name!r} is another than its pieces")
            if text != said:
                self._say(name, text[len(said) :])

    def _say(self, name: str, piece: str) -> None:
        self._said[name] += piece
        self._emit({"field": name, "chunk": piece}, "output")


async def run_streamed(module: dspy.Module, arguments: dict[str, Any], events: OutputEvents) -> dspy.Prediction:
    """Runs a module whose LM tells `events` what it writes of the outputs, which are the last predictor's."""
    prediction, last = None, id(module.predictors()[-1])
    async with aclosing(dspy.streamify(module, is_async_program=True)(**arguments)) as values:
        async for value in values:
            if isinstance(value, dspy.Prediction):
                prediction = value
            elif getattr(value, "predict_id", None) == last:  # DSPy's remarks on tools have none
                events.take(_written(value))
    return prediction


def _written(chunk: Any) -> str:
    """The text in a chunk of OpenAI's form; those that tell of tokens or tools have none."""
    choices = chunk.choices
    return (choices[0].delta.content if choices else None) or ""
