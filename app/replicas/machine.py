"""The machine as one: asks this replica and the others the same, whether there are others or not."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from app.replicas.questions import Missing, Question
from app.replicas.replica import Presence, Replica

if TYPE_CHECKING:
    from app.replicas.peers import Peers
    from app.services import Services

_Argument = TypeVar("_Argument")
_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class Told(Generic[_Answer]):
    """An answer, and the replica that it is of: None is the only one."""

    replica: int | None
    answer: _Answer


@dataclass(frozen=True, slots=True)
class Answers(Generic[_Answer]):
    """The answers of all replicas that have any, in their order."""

    told: Sequence[Told[_Answer]]
    missing: Sequence[Missing]

    @property
    def all(self) -> list[_Answer]:
        """The answers alone."""
        return [one.answer for one in self.told]

    @property
    def missing_replicas(self) -> list[str]:
        """The replicas that have not answered, as views tell it."""
        return [str(one) for one in self.missing]


class WholeMachine:
    """Asks all replicas of this machine. A service that is one process asks itself alone."""

    def __init__(self, replica: Replica | None, peers: "Peers | None") -> None:
        """Takes the `replica` that this process is and its `peers`, if there are several."""
        self._replica = replica
        self._peers = peers
        self._services: Services | None = None

    def __repr__(self) -> str:
        return f"<WholeMachine {self.presences()}>"

    def begin(self, services: "Services") -> None:
        """Takes the services that this replica answers by. Nothing is asked before that."""
        self._services = services

    @property
    def index(self) -> int | None:
        """The number of this replica; None if it is the only one."""
        return None if self._replica is None else self._replica.index

    @property
    def is_alone(self) -> bool:
        """Tells if there is no other replica."""
        return self._peers is None

    async def catch_up(self) -> None:
        """Acts on all that other replicas had changed before this was called."""
        if self._replica is not None:
            await self._replica.catch_up()

    @asynccontextmanager
    async def rotating(self) -> AsyncIterator[None]:
        """Lets one replica at a time rotate, or take a rotation back, after it has learned of what was before."""
        if self._replica is None:
            yield
            return
        async with self._replica.machine.rotating.held():
            await self.catch_up()
            yield

    def place_of(self, replica_id: str) -> int | None:
        """Tells which replica of this machine has, or has had, an id; None for any other."""
        return None if self._replica is None else self._replica.place_of(replica_id)

    def presences(self) -> Sequence[tuple[int | None, Presence]]:
        """Tells what this replica sees of each, itself included."""
        if self._replica is None:
            return [(None, Presence.SERVING)]
        return [(index, self._replica.presence(index)) for index in range(self._replica.count)]

    def absent(self) -> list[str]:
        """The replicas that can answer nothing now, as views tell it, without a question to them."""
        answering = (Presence.SERVING, Presence.STOPPING)
        seen = [Missing(index, presence) for index, presence in self.presences() if index is not None]
        return [str(one) for one in seen if one.reason not in answering]

    async def ask(self, question: Question[_Argument, _Answer], argument: _Argument) -> Answers[_Answer]:
        """Asks all replicas at once. Raises whatever this replica's own answer raises."""
        own, others = await asyncio.gather(self.ask_this(question, argument), self.ask_others(question, argument))
        told = sorted([Told(self.index, own), *others.told], key=lambda one: one.replica or 0)
        return Answers(told, others.missing)

    async def ask_this(self, question: Question[_Argument, _Answer], argument: _Argument) -> _Answer:
        """Asks this replica alone. Raises whatever its answer raises."""
        assert self._services is not None
        return await question.tell(self._services, argument)

    async def ask_others(self, question: Question[_Argument, _Answer], argument: _Argument) -> Answers[_Answer]:
        """Asks all replicas but this one at once; there is no answer of those that are missing."""
        if self._peers is None:
            return Answers((), ())
        told, missing = await self._peers.ask(question.name, question.asked(argument), question.timeout_s)
        return Answers([Told(index, question.heard(answer)) for index, answer in told.items()], missing)
