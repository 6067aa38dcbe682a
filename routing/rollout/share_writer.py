"""Writes what a ramp's move means for V2's share, as a revision of the flag."""

from routing.errors import StaleRevision
from routing.rollout.flag import RolloutFlag
from routing.rollout.model import Change, Rollout
from routing.rollout.ramp import Note, SetPercent


class ShareWriter:
    """Brings effects of moves about on the flag. A change of the flag that comes first wins."""

    def __init__(self, flag: RolloutFlag) -> None:
        self._flag = flag

    async def write(self, effect: SetPercent | Note, by: str, before: Rollout, epoch: int) -> Rollout | None:
        """Writes the revision after `before`, and returns it.

        `epoch` is the flag's at the time of `before`. Returns None if there is nothing to write, or if the rollout has
        changed since. At 0 % a note is not written: a ramp's revision with that share is a rollback.

        Raises:
            ChangeVoided: a rollback has come meanwhile.
            StoreUnavailable: the store does not answer.
        """
        points = before.canary_basis_points
        if isinstance(effect, Note):
            if points == 0:
                return None
        elif effect.basis_points == points and not effect.is_told:
            return None
        else:
            points = effect.basis_points
        try:
            change = Change(points, effect.source, by, effect.reason)
            return await self._flag.change(change, expected=before.revision, asked_in=epoch)
        except StaleRevision:
            return None

    async def write_now(self, effect: SetPercent | Note, by: str) -> None:
        """Writes the revision after the current one, as `write` does."""
        await self.write(effect, by, self._flag.current, self._flag.epoch)
