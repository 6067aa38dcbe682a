"""The outputs' texts on their way to whoever listens, while the LM writes them."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import dspy

from poolshift.worker.dspy.lm_time import streaming_from_this_thread
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
        for name in self._said:
            if not self._complete(name, outputs):
                raise ValueError(f"the output {name!r} is another than its pieces")

    def finish_if_same(self, outputs: Mapping[str, Any]) -> None:
        """As `finish`, for a program that may return another text than its LM wrote: the result has it."""
        for name in self._said:
            self._complete(name, outputs)

    def _complete(self, name: str, outputs: Mapping[str, Any]) -> bool:
        text = outputs.get(name) or ""
        said = self._said[name]
        if not isinstance(text, str) or not text.startswith(said):
            return False
        if text != said:
            self._say(name, text[len(said) :])
        return True

    def _say(self, name: str, piece: str) -> None:
        self._said[name] += piece
        self._emit({"field": name, "chunk": piece}, "output")


async def run_streamed(
    module: dspy.Module,
    arguments: dict[str, Any],
    events: OutputEvents,
    has_room: Callable[[], Awaitable[None]] | None = None,
) -> dspy.Prediction:
    """Runs a module whose LM tells `events` what it writes of the outputs, which are the last predictor's.

    `has_room` waits until the listener takes more; without it, sending an event does.
    """
    prediction, last = None, id(module.predictors()[-1])
    async with aclosing(dspy.streamify(module, is_async_program=True)(**arguments)) as values:
        async for value in values:
            if isinstance(value, dspy.Prediction):
                prediction = value
            elif getattr(value, "predict_id", None) == last:  # DSPy's remarks on tools have none
                events.take(_written(value))
                if has_room is not None:
                    await has_room()
    return prediction


class FirstAnswer:
    """Listens to a predictor of a module, as DSPy's `StreamListener`: to its first answer, if it is asked again."""

    stream_start = cache_hit = False
    signature_field_name = predict_name = ""

    def __init__(self, predictor: dspy.Predict, events: OutputEvents) -> None:
        self.predict = predictor
        self.events = events
        self._is_over = False

    def receive(self, chunk: Any) -> None:
        """Takes the next chunk; there is nothing to hand on to DSPy."""
        if not self._is_over:
            if written := _written(chunk):
                self.events.take(written)
            self._is_over = bool(chunk.choices and chunk.choices[0].finish_reason)

    def finalize(self) -> None:
        """Does nothing: `OutputEvents` has the end of each text."""


class _Wrapped(dspy.Module):  # type: ignore[misc]  # DSPy is without types
    """Returns a Prediction whatever the module inside returns: DSPy ends a stream at nothing else."""

    def __init__(self, module: dspy.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, **arguments: Any) -> dspy.Prediction:
        with streaming_from_this_thread():
            return dspy.Prediction(returned=self.module(**arguments))

    async def aforward(self, **arguments: Any) -> dspy.Prediction:
        return dspy.Prediction(returned=await self.module.acall(**arguments))


async def run_module_streamed(
    module: dspy.Module, arguments: dict[str, Any], listeners: Sequence[FirstAnswer], *, is_async: bool
) -> Any:
    """Runs a module while its predictors are listened to. A plain `forward` runs in a thread of its own."""
    returned = None
    streamed = dspy.streamify(_Wrapped(module), stream_listeners=list(listeners), is_async_program=is_async)
    async with aclosing(streamed(**arguments)) as values:
        async for value in values:
            if isinstance(value, dspy.Prediction):
                returned = value["returned"]
    return returned


def _written(chunk: Any) -> str:
    """The text in a chunk of OpenAI's form; those that tell of tokens or tools have none."""
    choices = chunk.choices
    return (choices[0].delta.content if choices else None) or ""
