"""What can go wrong beside the execution itself."""

from routing.rollout.model import Rollout


class ProgramNotFound(Exception):
    """No program of this id, neither in the session nor among the global ones."""


class ProgramExists(Exception):
    """The id is taken in this namespace."""


class SessionNotFound(Exception):
    """No session of this id."""


class JobNotFound(Exception):
    """No long run of this id, or no more."""


class StaleRevision(Exception):
    """The rollout has changed since the revision that a change was meant for."""

    def __init__(self, current: Rollout) -> None:
        super().__init__(f"the rollout is at revision {current.revision}")
        self.current = current


class StoreUnavailable(Exception):
    """What must be remembered cannot be: the database does not answer."""


class RollbackUnwritten(StoreUnavailable):
    """A rollback is in force on this replica, but the database did not answer."""

    def __init__(self, why: str) -> None:
        where = "in force on this replica, and will be written, for the others too, as soon as possible"
        super().__init__(f"the rollback is {where}: {why}")


class InvalidPlan(Exception):
    """A plan that makes no sense; the message says where."""


class PlanConflict(Exception):
    """The ramp is in a state that does not allow what was asked for."""


class NoPlan(Exception):
    """There is no plan to carry out."""
