"""The calls that wait aside until a worker has loaded their program, so that calls of other programs pass them."""

from collections.abc import Iterable

from pools.fair_queue import FairQueue, QueuedCall
from poolshift.worker.definitions import Definition


class LoadRooms:
    """A room for each definition that calls wait for; fair between sessions, as the queue is."""

    def __init__(self) -> None:
        self._rooms: dict[Definition, FairQueue] = {}
        self.length = 0
        """The number of calls that wait for a load."""

    def __repr__(self) -> str:
        return f"<LoadRooms rooms={len(self._rooms)} waiting={self.length}>"

    def push(self, queued_call: QueuedCall) -> None:
        """Lets a call wait for its program."""
        definition = queued_call.call.program.definition
        room = self._rooms.get(definition)
        if room is None:
            room = self._rooms[definition] = FairQueue()
        room.push_over_limit(queued_call)
        queued_call.is_aside = True
        self.length += 1

    def pop(self, definition: Definition) -> QueuedCall | None:
        """Takes the next call of a room."""
        room = self._rooms.get(definition)
        queued_call = None if room is None else room.pop()
        if queued_call is not None:
            self._left(definition, queued_call)
        return queued_call

    def remove(self, queued_call: QueuedCall) -> bool:
        """Takes a call out; False if it does not wait here (any more)."""
        definition = queued_call.call.program.definition
        room = self._rooms.get(definition)
        if room is None or not room.remove(queued_call):
            return False
        self._left(definition, queued_call)
        return True

    def postpone(self, definition: Definition) -> None:
        """Puts a room behind all others."""
        self._rooms[definition] = self._rooms.pop(definition)

    def definitions(self) -> Iterable[Definition]:
        """The definitions that calls wait for; the room that was looked at least recently comes first."""
        return self._rooms

    def next_of(self, definition: Definition) -> QueuedCall:
        """Looks at the first call of a room."""
        return self._rooms[definition].first()

    def room_length(self, definition: Definition) -> int:
        """The number of calls that wait for a program."""
        return self._rooms[definition].length

    def lane_length(self, queued_call: QueuedCall) -> int:
        """The number of calls of a session that wait for the program of a call."""
        room = self._rooms.get(queued_call.call.program.definition)
        return 0 if room is None else room.lane_length(queued_call.lane)

    def rooms(self) -> Iterable[FairQueue]:
        """All rooms."""
        return self._rooms.values()

    def queued_calls(self) -> list[QueuedCall]:
        """Everyone who waits."""
        return [one for room in self._rooms.values() for one in room.queued_calls()]

    def _left(self, definition: Definition, queued_call: QueuedCall) -> None:
        queued_call.is_aside = False
        self.length -= 1
        if not self._rooms[definition].length:
            del self._rooms[definition]
