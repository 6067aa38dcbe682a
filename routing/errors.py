"""Errors that a call or a change can meet besides those of its execution."""

from datetime import datetime

from routing.rollout.model import Rollout


class ProgramNotFound(Exception):
    """No program has this id, neither in the session nor among the global ones."""


class ProgramExists(Exception):
    """The id is taken in this namespace."""

    def __init__(self, program_id: str, reason: str | None = None) -> None:
        super().__init__(program_id)
        self.reason = reason


class SessionNotFound(Exception):
    """No session has this id."""


class SessionEnded(Exception):
    """A session that held programs or an LM of its own has ended, and a call means what is gone."""

    def __init__(self, session_id: str, ended_at: datetime, lost: str | None = None) -> None:
        """`lost` names what the call means, if the session has begun again without that."""
        what = f"{lost} that it had" if lost else "the programs or the language model that it had"
        again = ", and has begun again without that" if lost else ""
        super().__init__(f"the session {session_id!r} has ended, with {what}{again}")
        self.ended_at = ended_at


class FormerLMMissing(Exception):
    """No language model is kept that could be put back."""


class QuotaExceeded(Exception):
    """A quota is used up; the message says which."""

    def __init__(self, quota: str, limit: int, what: str) -> None:
        super().__init__(f"{what}: {limit} at most ({quota})")
        self.quota = quota


class IdempotencyConflict(Exception):
    """A call has the `Idempotency-Key` of another call, whose answer is not the answer to this one."""

    def __init__(self, message: str, *, retry_after_s: float | None = None, is_lost: bool = False) -> None:
        """`is_lost` says that nobody knows how far the other call came."""
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.is_lost = is_lost

    @staticmethod
    def other_request() -> "IdempotencyConflict":
        """The other call asks for something else."""
        return IdempotencyConflict("this Idempotency-Key was sent with another body, program or form of answer")

    @staticmethod
    def running() -> "IdempotencyConflict":
        """The other call is the same, and has not ended."""
        return IdempotencyConflict("the first call with this Idempotency-Key still runs", retry_after_s=1.0)

    @staticmethod
    def lost() -> "IdempotencyConflict":
        """The other call is the same, and the service that ran it has ended."""
        message = "the service ended while the first call with this Idempotency-Key ran: nobody knows how far it came"
        return IdempotencyConflict(message, is_lost=True)


class JobNotFound(Exception):
    """No job has this id, or the store has forgotten the job."""


class StaleRevision(Exception):
    """The rollout has changed since the revision that a change was meant for."""

    def __init__(self, current: Rollout) -> None:
        super().__init__(f"the rollout is at revision {current.revision}")
        self.current = current


class StaleProgram(Exception):
    """A program is in another state than a change was meant for: at `revision`, or missing if that is None."""

    def __init__(self, program_id: str, revision: int | None) -> None:
        state = "does not exist" if revision is None else f"is at revision {revision}"
        super().__init__(f"the program {program_id!r} {state}")
        self.revision = revision


class IncompatibleDefinition(Exception):
    """V2's own definition of a program does not take V1's calls; `field` is the one that is in the way."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(reason)
        self.field = field


class NotTheOwner(Exception):
    """A global program belongs to another owner than the one who would change it."""

    def __init__(
        self, program_id: str, owner: str, may: str = "may change or delete it; everyone else may run it"
    ) -> None:
        super().__init__(
            f"the program {program_id!r} belongs to {owner!r}: keys of that owner or with the scope admin {may}"
        )


class NoProgramOfSession(ProgramNotFound):
    """A session has no program of its own under an id, whatever there is among the global programs."""

    def __init__(self, program_id: str, session_id: str, *, is_global: bool) -> None:
        super().__init__(program_id)
        there = "; the global program of this id is changed or deleted without a session" if is_global else ""
        self.reason = f"the session {session_id!r} has no program {program_id!r} of its own{there}"


class NoRevision(ProgramNotFound):
    """A program has no revision of this number any more, or never had one."""

    def __init__(self, program_id: str, revision: int) -> None:
        super().__init__(program_id)
        self.reason = f"the program {program_id!r} has no revision {revision} that is kept"


class NoDeletion(ProgramNotFound):
    """A program has no deletion of this number that can be restored."""

    def __init__(self, program_id: str, number: int) -> None:
        super().__init__(program_id)
        self.reason = f"the program {program_id!r} has no deletion {number} that can be restored"


class NothingToDemote(Exception):
    """The definition of a program that is in force does not come from a promotion, or V2 has another one on trial."""


class NoOwnDefinition(ProgramNotFound):
    """V2 has no definition of its own of a program, or it was to get one of a program that V1 has not."""

    def __init__(self, program_id: str, reason: str) -> None:
        super().__init__(program_id)
        self.reason = reason


class ChangeVoided(StaleRevision):
    """A rollback was asked for, here or on another replica, after the change was and before the change was written."""

    def __init__(self, current: Rollout) -> None:
        super().__init__(current)
        self.args = (f"a rollback voided this change; {self.args[0]}",)


class StoreUnavailable(Exception):
    """The database does not answer, so that what must be remembered cannot be."""


class RollbackUnwritten(StoreUnavailable):
    """A rollback is in force on this replica, but the database has not stored it."""

    def __init__(self, why: str) -> None:
        where = "in force on this replica, and will be written, for the others too, as soon as possible"
        super().__init__(f"the rollback is {where}: {why}")


class AnswerUnwritten(StoreUnavailable):
    """A call with an `Idempotency-Key` has ended, but the database has not stored its answer."""

    def __init__(self) -> None:
        ask = "send the call again with its Idempotency-Key: it gets its answer as soon as that is stored"
        super().__init__(f"the call has ended, and the database does not take its answer now; {ask}")


class InvalidPlan(Exception):
    """A plan that makes no sense; the message says where."""


class PlanConflict(Exception):
    """The ramp is in a state that does not allow what was asked for."""


class PlanMoved(PlanConflict):
    """Another move of the ramp, by another replica or by the judge, has come before a request's."""


class NoPlan(Exception):
    """There is no plan to carry out."""
