"""The way back from a rotation: what is put back, what would break with it, and the words for it."""

from collections.abc import Iterable, Mapping

from app.positions.factory import RunningPool
from app.positions.new_code import MAX_NAMED, Broken, CodeTrial, told_broken
from app.positions.starting import RotatedV1
from app.problems import Problem
from pools.errors import SpawnFailed
from pools.process.interface import WorkerSpawner
from poolshift.worker.definitions import Definition
from routing.catalog.programs import CataloguedProgram
from routing.errors import PlanConflict
from routing.rollout.model import Rollout
from routing.rotation.store import Former, LastRotation
from routing.versions import Version

_IF_V1_FAILS = (
    "if V1 fails since then, `poolshift rollout set 100` gives V2 all calls, and `poolshift rollout rotate --unproven` "
    "makes V2's specification V1's again"
)


def undoable(last: LastRotation | None) -> tuple[Rollout, Former]:
    """Returns the newest rotation with what it replaced. Raises PlanConflict if there is nothing to take back."""
    if last is None:
        raise PlanConflict("there was no rotation: nothing is to be taken back")
    rotation, taken = last.rollout, RotatedV1.of(last.rollout)
    when = f"by {rotation.updated_by} at {rotation.updated_at.isoformat(timespec='seconds')}"
    if taken.takes_back is not None:
        raise PlanConflict(
            f"the rotation of revision {taken.takes_back} was taken back already, {when} (revision "
            f"{rotation.revision}); {_IF_V1_FAILS}"
        )
    which = f"the rotation of revision {rotation.revision}, {when},"
    if last.is_forgotten:
        raise PlanConflict(
            f"{which} was forgotten by a start with ROTATION=forget: V1 is what the environment says, so change that"
        )
    if last.former is None:
        raise PlanConflict(f"{which} has kept nothing to go back to")
    return rotation, last.former


def told_back(rotation: Rollout, former: Former, code: str | None, reason: str | None, *, is_forced: bool) -> str:
    """Says what is put back, for the history; `code` is the revision of the programs' code that V1 has then."""
    told = f"unrotated: V1 is what it was before revision {rotation.revision}"
    if is_forced:
        told = f"forced, {told}"
    if reason:
        told = f"{told}: {reason}"
    if former.code is not None and code != former.code:
        told = f"{told} (but with programs at {code}, which are on disk now, instead of {former.code})"
    return told


async def refuse_broken(
    pool: RunningPool,
    present: WorkerSpawner,
    programs: Iterable[CataloguedProgram],
    former: Mapping[str, Definition],
    limit_s: float,
) -> None:
    """Refuses V1's former specification if the code that is on disk now does not load the programs of everyone.

    `former` has, by key, the definitions that V1 gets back. What `present` does not load breaks by nothing new.

    Raises:
        Problem: `load_failed`, which names the programs.
    """
    trial = CodeTrial(programs, Version.V1, limit_s, instead=former)
    try:
        found = await trial.run(pool.spawner.load, present.load)
    except SpawnFailed as error:
        raise Problem("load_failed", f"V1 keeps its specification: {error}") from None
    if found.broken:
        raise _broken(pool, found.broken)


def _broken(pool: RunningPool, broken: tuple[Broken, ...]) -> Problem:
    folder = pool.spec.programs_dir
    code = "the code that is on disk now" if folder is None else f"the code that is in {folder} now"
    return Problem(
        "load_failed",
        f"V1 keeps its specification: {told_broken(broken, code)}. Put the code back as it was; or, as an admin, "
        "unrotate with `force` and a reason",
        extensions={"programs": [{"program_id": one.program_id, "reason": one.reason} for one in broken[:MAX_NAMED]]},
    )
