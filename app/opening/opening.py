"""Everything that any part of the service is opened with."""

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

from app.replicas.page import State
from app.replicas.replica import Replica
from common.background import Background
from common.tasks import TaskOwner
from config.settings import Settings
from routing.telemetry.recorder import Recorder


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """The settings, the recorder, the owners of tasks, and the order in which all that was opened is closed."""

    settings: Settings
    replica: Replica | None
    """The replica that this process is, if there are several on this machine."""
    recorder: Recorder
    background: Background
    tasks: TaskOwner
    """Owns the tasks that one request starts."""
    stack: AsyncExitStack

    @classmethod
    def begin(cls, settings: Settings, replica: Replica | None, recorder: Recorder, stack: AsyncExitStack) -> "Opening":
        """Opens the two owners of tasks, which are closed last."""
        opening = cls(
            settings=settings,
            replica=replica,
            recorder=recorder,
            background=Background(recorder.background_restarted),
            tasks=TaskOwner("http"),
            stack=stack,
        )
        opening.at_end(opening.tasks.aclose)
        opening.at_end(opening.background.aclose)
        return opening

    def at_end(self, close: Callable[[], Awaitable[None]]) -> None:
        """Closes a part at the end, before all that were opened earlier."""
        self.stack.push_async_callback(close)

    def let_others_start(self) -> None:
        """Lets the other replicas of the machine start, if there are any."""
        if self.replica is not None:
            self.replica.is_now(State.OPEN)

    def run(self, name: str, work: Callable[[], Awaitable[None]], *, is_vital: bool = False) -> None:
        """Runs a background task, which ends before all that was opened earlier is closed."""
        task = self.background.run(name, work, is_vital=is_vital)
        self.stack.push_async_callback(self.background.stop, task)
