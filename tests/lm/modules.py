"""DSPy modules as people write them, for the tests of programs of type `dspy`."""

import datetime
import enum
import os
import time
from collections.abc import Callable
from typing import Any, Literal

import dspy
import numpy as np
import pydantic
from dspy import ChainOfThought as Imported  # noqa: F401  # a class that is not defined here


class Priority(enum.Enum):
    """An output that is one of a few values."""

    LOW = "low"
    HIGH = "high"


class Ticket(pydantic.BaseModel):
    """A value with fields of its own."""

    title: str
    due: datetime.date


class Triage(dspy.Signature):  # type: ignore[misc]
    """Sorts the mail."""

    message: str = dspy.InputField(desc="what the customer wrote")
    channel: Literal["mail", "phone"] = dspy.InputField()
    history: dspy.History = dspy.InputField()
    screenshot: dspy.Image = dspy.InputField()
    known: list[Ticket] = dspy.InputField()
    tickets: list[Ticket] = dspy.OutputField()
    priority: Priority = dspy.OutputField()
    team: Literal["sales", "support"] = dspy.OutputField()
    first: Ticket = dspy.OutputField()


class Typed(dspy.Module):  # type: ignore[misc]
    """One predictor with types of every kind; the call must have the Python values that they stand for."""

    def __init__(self) -> None:
        super().__init__()
        self.triage = dspy.Predict(Triage)

    def forward(self, **named: Any) -> dspy.Prediction:
        expected = {"history": dspy.History, "screenshot": dspy.Image, "known": list}
        for name, kind in expected.items():
            if not isinstance(named[name], kind):
                raise TypeError(f"{name} is of type {type(named[name]).__name__}")
        if not all(isinstance(ticket, Ticket) for ticket in named["known"]):
            raise TypeError("a ticket is not a Ticket")
        return self.triage(**named)


class Album(dspy.Module):  # type: ignore[misc]
    """Images inside a list and inside an optional parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.describe = dspy.Predict("pictures: list[dspy.Image], cover: dspy.Image -> caption")

    def forward(self, pictures: list[dspy.Image], cover: dspy.Image | None = None) -> dspy.Prediction:
        return self.describe(pictures=pictures, cover=cover or pictures[0])


class TwoSteps(dspy.Module):  # type: ignore[misc]
    """Two predictors; `steps` tells how often this object was called, and `made` how many there are in the process."""

    made = 0

    def __init__(self) -> None:
        super().__init__()
        type(self).made += 1
        self.draft = dspy.Predict("topic, tone -> text")
        self.polish = dspy.ChainOfThought("text, tone -> final")
        self.calls = 0

    def forward(self, topic: str, tone="dry") -> dspy.Prediction:  # type: ignore[no-untyped-def]
        self.calls += 1
        text = self.draft(topic=topic, tone=tone).text
        final = self.polish(text=text, tone=tone).final
        return dspy.Prediction(final=final, worker=[os.getpid(), self.calls, self.made])


class Branches(dspy.Module):  # type: ignore[misc]
    """A module with a `return` of each kind that tells its outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.polish = dspy.ChainOfThought("topic -> final")
        self.check = dspy.Predict("final -> verdict")

    def forward(self, topic: str) -> Any:
        def pages() -> list[int]:
            return [1, 2]

        if topic == "pages":
            return dspy.Prediction(final=topic, pages=pages())
        if topic == "dict":
            return {"final": topic, "found": True}
        return self.polish(topic=topic)


class Hidden(dspy.Module):  # type: ignore[misc]
    """A module whose `return` does not tell its outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.polish = dspy.Predict("topic -> final")

    def forward(self, topic: str) -> dspy.Prediction:
        result = self.polish(topic=topic)
        result.pages = [1, 2]
        return result


class InAsync(dspy.Module):  # type: ignore[misc]
    """A module with an `aforward` alone."""

    def __init__(self) -> None:
        super().__init__()
        self.polish = dspy.Predict("text -> final")

    async def aforward(self, text: str) -> dspy.Prediction:
        return await self.polish.acall(text=text)


class Shouting(dspy.Module):  # type: ignore[misc]
    """A module that changes its predictor's text, and asks for it twice."""

    def __init__(self) -> None:
        super().__init__()
        self.polish = dspy.Predict("text -> final")

    def forward(self, text: str) -> dict[str, str]:
        self.polish(text=text)
        return {"final": self.polish(text=text).final.upper()}


class Parallel(dspy.Module):  # type: ignore[misc]
    """Two requests at once, in threads of DSPy's, and a last one."""

    def __init__(self) -> None:
        super().__init__()
        self.draft = dspy.Predict("text -> final")

    def forward(self, text: str) -> dspy.Prediction:
        both = [(self.draft, {"text": text}), (self.draft, {"text": f"{text}!"})]
        first, second = dspy.Parallel(num_threads=2, disable_progress_bar=True)(both)
        if first is None or second is None:
            raise RuntimeError("a draft failed")
        return self.draft(text=first.final + second.final)


class Failing(dspy.Module):  # type: ignore[misc]
    """A module whose own code raises, as `how` says."""

    def __init__(self) -> None:
        super().__init__()
        self.polish = dspy.Predict("text -> final")

    def forward(self, text: str, how: str) -> Any:
        if how == "before":
            raise ValueError("no such text")
        if how == "sleeps":
            time.sleep(60)
        try:
            final = self.polish(text=text).final
        except dspy.LMError as error:
            if how == "wraps":
                raise RuntimeError(f"the LM said {error}") from error
            raise
        if how == "wrong":
            return dspy.Prediction(final=7)
        raise KeyError(final)


class Sort(dspy.Signature):  # type: ignore[misc]
    """Sorts one message."""

    message: str = dspy.InputField()
    priority: Priority = dspy.OutputField()
    scores: list[float] = dspy.OutputField()


class Sorted(dspy.Module):  # type: ignore[misc]
    """A module that asks no LM, whose code makes the values of its outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.sort = dspy.Predict(Sort)

    def forward(self, message: str, ticket: int | str, known: list[Ticket] | None = None) -> dspy.Prediction:
        priority = Priority(message) if message == "low" else message
        return dspy.Prediction(priority=priority, scores=np.array([0.5, 2], np.float32))


class Untold(dspy.Module):  # type: ignore[misc]
    """A module whose inputs cannot be told."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = dspy.Predict("a -> b"), dspy.Predict("b -> c")

    def forward(self, whatever) -> dspy.Prediction:  # type: ignore[no-untyped-def]
        return self.second(b=self.first(a=whatever).b)


class WithoutJson(Untold):
    """A module with an input for which there is no JSON."""

    def forward(self, whatever: Callable[[int], str]) -> dspy.Prediction:
        return self.second(b=self.first(a=whatever).b)


class Broken(dspy.Module):  # type: ignore[misc]
    """A module that cannot be made."""

    def __init__(self) -> None:
        super().__init__()
        raise FileNotFoundError("no index")


class NotOne:
    """A class that is not a module."""


class _Private(Typed):
    pass


class Misspelled(dspy.Module):  # type: ignore[misc]
    """A module whose prediction has another field than its signature says."""

    def forward(self, topic: str) -> dspy.Prediction:
        return dspy.Prediction(summary=topic)
