"""V2, the new engine: every call that finds a worker idle has it to itself; N workers run N calls."""

from pools.engine import Engine


class SessionPoolV2(Engine):
    """No coordinator: a call is checked out a worker, talks to it directly, and checks it in."""

    def _can_begin(self) -> bool:
        return bool(self._state.idle)

    @property
    def _concurrency(self) -> int:
        return self._state.live
