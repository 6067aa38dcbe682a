"""Going on with a stream after the connection broke."""

from dataclasses import replace

from poolshift.client.calls import Call
from poolshift.client.errors import AnswerLost
from poolshift.client.events import EventReader
from poolshift.client.executions import Execution
from poolshift.client.options import Options


class Resumption:
    """Decides if a stream goes on, and from which event. Does no I/O."""

    def __init__(self, options: Options, call: Call[Execution]) -> None:
        self._options = options
        self._attempts = options.attempts(call)
        self._last_id = call.headers.get("last-event-id")
        self.call = call
        """The call for the rest of the stream."""

    def pause_s(self, error: AnswerLost, reader: EventReader) -> float:
        """The pause before the stream is asked for again. Each event that came gives it all attempts again.

        Raises:
            AnswerLost: `error`, if the stream is a run of a program, or has no further attempt.
        """
        if self.call.method != "GET":
            raise error
        if reader.last_id != self._last_id and reader.last_id is not None:
            self._last_id = reader.last_id
            self._attempts = self._options.attempts(self.call)
            self.call = replace(self.call, headers={**self.call.headers, "last-event-id": reader.last_id})
        return self._attempts.pause_s(error)
