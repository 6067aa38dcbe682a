"""A question among the replicas of a machine."""

from collections.abc import Awaitable, Callable
from functools import cached_property
from typing import TYPE_CHECKING, Final, Generic, NamedTuple, TypeVar, get_type_hints

import msgspec

if TYPE_CHECKING:
    from app.services import Services

LOOK_S: Final = 0.8
"""The longest time that a view waits for the other replicas, in seconds."""

_Argument = TypeVar("_Argument")
_Answer = TypeVar("_Answer")


class Missing(NamedTuple):
    """A replica that has not answered, and why."""

    replica: int
    reason: str

    def __str__(self) -> str:
        return f"{self.replica}: {self.reason}"


class Question(Generic[_Argument, _Answer]):
    """A question to a replica, or an act that it is asked for."""

    def __init__(
        self,
        name: str,
        tell: "Callable[[Services, _Argument], Awaitable[_Answer]]",
        *,
        timeout_s: float | None = LOOK_S,
    ) -> None:
        """Takes `tell`, which answers on the replica that is asked; its annotations say what is sent.

        The others have `timeout_s` seconds; None is for an act that takes as long as it takes.
        """
        self.name = name
        self.tell = tell
        self.timeout_s = timeout_s

    def __repr__(self) -> str:
        return f"<Question {self.name}>"

    async def told(self, services: "Services", argument: bytes) -> bytes:
        """Answers the question as it came. Raises whatever `tell` raises."""
        asked = self._arguments.decode(argument)
        return msgspec.msgpack.encode(await self.tell(services, asked))

    def asked(self, argument: _Argument) -> bytes:
        """Encodes the argument."""
        return msgspec.msgpack.encode(argument)

    def heard(self, answer: bytes) -> _Answer:
        """Reads an answer."""
        return self._answers.decode(answer)

    @cached_property
    def _arguments(self) -> "msgspec.msgpack.Decoder[_Argument]":
        _, argument, _ = get_type_hints(self.tell).values()
        return msgspec.msgpack.Decoder(argument)

    @cached_property
    def _answers(self) -> "msgspec.msgpack.Decoder[_Answer]":
        return msgspec.msgpack.Decoder(get_type_hints(self.tell)["return"])
