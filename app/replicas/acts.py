"""Acts that each replica of a machine does on its own pools: whoever is asked for one has the others do it, too."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final

import msgspec

from app.positions.reload import REFUSALS, Asked
from app.positions.warmth import wait_until_warm
from app.replicas.machine import Answers, WholeMachine
from app.replicas.questions import LOOK_S, Question
from app.replicas.replica import Presence
from app.services import Services
from pools.errors import PoolClosed, SpawnFailed
from routing.versions import Version

FOLLOW_S: Final = 120.0
"""The longest wait for another replica to follow a rotation, in seconds: its workers start, and load programs."""
_LOOK_AGAIN_S: Final = 0.05
_WRITE_S: Final = 5.0
"""The time that the end of a job has for the database, in seconds."""


class NotEverywhere(SpawnFailed):
    """A reload that has succeeded on the replica that was asked, and not on all others."""


# --- reload


class ReloadAsked(msgspec.Struct, frozen=True):
    """A wish for a reload of one pool, or of all."""

    version: Version | None
    asked: Asked


async def reload_everywhere(services: Services, version: Version | None, asked: Asked) -> None:
    """Reloads one pool, or all, on this replica and then on the others of the machine.

    Raises:
        SpawnFailed, NoPreviousCode, PlanConflict, PoolClosed: as `CodeReloader.reload_all`. Nothing is reloaded on the
            other replicas.
        NotEverywhere: it is done here, and not on all others.
    """
    if version is None:
        await services.reloader.reload_all(asked)
    else:
        await services.reloader.reload(version, asked)
    answers = await services.machine.ask_others(RELOAD, ReloadAsked(version, replace(asked, is_told=True)))
    problems = [f"replica {one.replica}: {one.answer}" for one in answers.told if one.answer is not None]
    # One that has died gets a successor, which starts with the code that is on disk.
    lost = [one for one in answers.missing if asked.is_previous or one.reason != Presence.GONE]
    problems += [f"replica {one}" for one in lost]
    if problems:
        done = [services.machine.index, *(one.replica for one in answers.told if one.answer is None)]
        raise NotEverywhere("; ".join([*problems, f"reloaded: {_named(done)}"]))


def _named(replicas: Sequence[int | None]) -> str:
    numbers = sorted(one for one in replicas if one is not None)
    return f"replica{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"


async def _reload(services: Services, what: ReloadAsked) -> str | None:
    """Reloads as it was reloaded on the replica that was asked; tells what is in the way."""
    try:
        if what.version is None:
            await services.reloader.reload_all(what.asked)
        else:
            await services.reloader.reload(what.version, what.asked)
    except (*REFUSALS, PoolClosed) as error:
        return str(error)
    return None


# --- the rollout


async def everywhere_warm(machine: WholeMachine, share: float) -> bool:
    """Waits until V2 is warm for a share on all replicas that serve; False if it does not get warm in time."""
    return all((await machine.ask(WARM, share)).all)


async def wait_until_warm_everywhere(services: Services, basis_points: int, expected: int | None) -> int | None:
    """As `wait_until_warm`, on all replicas of the machine."""
    machine = services.machine
    everywhere = None if machine.is_alone else partial(everywhere_warm, machine)
    return await wait_until_warm(services.pools[Version.V2], services.flag, basis_points, expected, everywhere)


async def _warm(services: Services, share: float) -> bool:
    return await services.pools[Version.V2].warmed(share)


async def _follow_rotation(services: Services, revision: int) -> bool:
    """Waits until V1 is what a rotation has made it."""
    loop = asyncio.get_running_loop()
    due = loop.time() + FOLLOW_S
    while services.flag.rotated_to < revision:
        if loop.time() >= due:
            return False
        await asyncio.sleep(_LOOK_AGAIN_S)
    return True


async def follow_everywhere(services: Services, revision: int) -> list[str]:
    """Waits until all replicas have followed a rotation; returns those that have not, with the reason."""
    answers = await services.machine.ask_others(FOLLOW_ROTATION, revision)
    return [*(f"{one.replica}: has not followed" for one in answers.told if not one.answer), *answers.missing_replicas]


async def replay_everywhere(services: Services) -> list[str]:
    """Has calls that run on V2 run on V1 instead; returns the replicas that have not answered, with the reason."""
    services.router.replay_running()
    return (await services.machine.ask_others(REPLAY, None)).missing_replicas


async def _replay(services: Services, _: None) -> None:
    services.router.replay_running()


# --- jobs and sessions


async def cancel_elsewhere(services: Services, execution_id: str) -> None:
    """Cancels a job on the other replica that runs it."""
    await services.machine.ask_others(CANCEL, execution_id)


async def _cancel(services: Services, execution_id: str) -> None:
    await services.jobs.cancel_here(execution_id)


async def catch_up_elsewhere(services: Services) -> Answers[None]:
    """Waits until the other replicas have acted on what has changed: on the end of a session, for one."""
    return await services.machine.ask_others(CATCH_UP, None)


async def _catch_up(services: Services, _: None) -> None:
    await services.machine.catch_up()


RELOAD: Final = Question("reload", _reload, timeout_s=None)
WARM: Final = Question("warm", _warm, timeout_s=None)
FOLLOW_ROTATION: Final = Question("follow_rotation", _follow_rotation, timeout_s=None)
REPLAY: Final = Question("replay", _replay, timeout_s=LOOK_S)
CANCEL: Final = Question("cancel", _cancel, timeout_s=_WRITE_S)
CATCH_UP: Final = Question("catch_up", _catch_up)

ACTS: Final[tuple[Question[Any, Any], ...]] = (RELOAD, WARM, FOLLOW_ROTATION, REPLAY, CANCEL, CATCH_UP)
"""The questions that change what a replica does."""
