"""The specifications of the pools at a start: the environment's, and V1's by a rotation if there was one.

A rotation outlasts all changes of the environment but those of what it has given V1. Such a change is a question that
only the operator can answer, so the start ends with it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import msgspec
import structlog

from config.pools import OF_CODE, PoolSpec
from config.settings import InvalidSettings, Settings
from poolshift.worker.lm import NONE
from routing.catalog.lms import Holder, LMs, StoredLM
from routing.rollout.flag import RolloutFlag
from routing.rollout.log import RolloutLog
from routing.rollout.model import Change, Rollout, Source
from routing.rotation.store import FORGOTTEN
from routing.versions import Version

_BASE = "rotation_environment"
"""The source under which the log has the environment that an operator has accepted beside a rotation."""
_V1 = Holder(version=Version.V1)
_log = structlog.stdlib.get_logger("poolshift.rollout")


class RotatedV1(msgspec.Struct, frozen=True, kw_only=True):
    """The specification that a rotation gives V1, as its revision has it."""

    spec: dict[str, Any]
    environment: dict[str, Any]
    """The specification that the environment had for V1 at that time."""
    gave_lm: bool = False
    """Tells if V1 got V2's LM, too."""
    takes_back: int | None = None
    """The rotation that this one takes back, if it does."""

    @classmethod
    def of(cls, rotation: Rollout) -> "RotatedV1":
        """Reads it from a rotation."""
        return msgspec.json.decode(rotation.v1_pool or "", type=cls)

    def as_json(self) -> str:
        """Writes it for a rotation."""
        return msgspec.json.encode(self).decode()


class _Base(msgspec.Struct, frozen=True):
    """The environment's specification of V1 that goes with a rotation."""

    rotation: int
    environment: dict[str, Any]


class _Conflict(NamedTuple):
    """A variable that asks for another V1 than the rotation has made; its value is None if it is not to be shown."""

    variable: str
    rotated: str | None
    asked: str | None

    def __str__(self) -> str:
        if self.rotated == self.asked:
            return f"{self.variable} has another value than the LM that it gave V1"
        now = f"{self.variable} is unset now" if self.asked is None else f"{self.variable} asks for {self.asked}"
        return f"{now}, and it gave V1 {self.rotated or 'none'}"


async def starting_specs(settings: Settings, log: RolloutLog, lms: LMs, flag: RolloutFlag) -> dict[Version, PoolSpec]:
    """Reads the specifications of the pools that run: those of the environment, unless a rotation says otherwise.

    The flag gets a revision if `ROTATION=forget` ends a rotation.

    Raises:
        InvalidSettings: a variable asks for another V1 than the rotation has made, and no `ROTATION` says which counts.
        StoreUnavailable: the rollout's log cannot be read.
    """
    specs = {Version(name): settings.pool(name) for name in settings.pool_versions}
    rotation = await log.rotation()
    if Version.V1 not in specs or rotation is None or rotation.v1_pool is None:
        return specs
    if await log.last_seen(Source.ROTATION) == str(rotation.revision):
        return specs
    asked = specs[Version.V1]
    specs[Version.V1] = await _v1_after(rotation, asked, settings, log, lms, flag)
    if specs[Version.V1] != asked:
        _tell(rotation, specs[Version.V1])
    return specs


async def _v1_after(
    rotation: Rollout, asked: PoolSpec, settings: Settings, log: RolloutLog, lms: LMs, flag: RolloutFlag
) -> PoolSpec:
    """Finds V1's specification after a rotation; `asked` is the environment's."""
    told = RotatedV1.of(rotation)
    rotated, base = PoolSpec.from_json(told.spec), await _base(log, rotation.revision, told)
    lm = await lms.overridden(_V1) if told.gave_lm else None
    conflicts = [*_conflicts(settings, rotated, base, asked), *_lm_conflicts(settings, lm)]
    if conflicts and settings.rotation is None:
        raise InvalidSettings(_question(rotation, conflicts))
    if conflicts and settings.rotation == "forget":
        await _forget(log, lms, flag, rotation, conflicts, gave_lm=told.gave_lm)
        return asked
    if lm is not None:
        await lms.keep(lm)
    if _same_code(base, rotated) or _same_code(base, asked):
        return _combined(rotated, base, asked)
    is_over = _same_code(rotated, asked) and not told.gave_lm
    await _accept(log, rotation, _with_code(base, asked), is_over=is_over)
    return asked if is_over else _combined(rotated, base, asked)


async def _base(log: RolloutLog, rotation: int, told: RotatedV1) -> PoolSpec:
    seen = await log.last_seen(_BASE)
    accepted = None if seen is None else msgspec.json.decode(seen, type=_Base)
    is_of_this = accepted is not None and accepted.rotation == rotation
    return PoolSpec.from_json(accepted.environment if accepted is not None and is_of_this else told.environment)


def _conflicts(settings: Settings, rotated: PoolSpec, base: PoolSpec, asked: PoolSpec) -> Iterator[_Conflict]:
    """Finds the variables that have changed since, and ask for something else than the rotation has given."""
    if _same_code(rotated, base):
        return  # the rotation has changed V1's definitions, LM or size
    for name in OF_CODE:
        now = getattr(asked, name)
        if now not in (getattr(base, name), getattr(rotated, name)):
            yield _Conflict(settings.variable("v1", name), getattr(rotated, name), now)


def _lm_conflicts(settings: Settings, lm: StoredLM | None) -> Iterator[_Conflict]:
    if lm is None:
        return
    rotated, asked = lm.settings.model, settings.lm_of("v1").model
    name = "V1_LM_MODEL" if rotated != asked else "V1_LM_API_BASE or V1_LM_API_KEY"
    yield _Conflict(name, rotated, None if asked == NONE else asked)


def _question(rotation: Rollout, conflicts: Sequence[_Conflict]) -> str:
    at = rotation.updated_at.isoformat(timespec="seconds")
    changes = "; ".join(map(str, conflicts))
    return (
        f"V1 is as the rotation of revision {rotation.revision} made it (by {rotation.updated_by} at {at}), and the "
        f"environment has changed: {changes}. Run `poolshift rollout unrotate` on the service with its former "
        "environment, or set ROTATION=keep (V1 stays as rotated) or ROTATION=forget (the environment counts)"
    )


async def _forget(
    log: RolloutLog,
    lms: LMs,
    flag: RolloutFlag,
    rotation: Rollout,
    conflicts: Sequence[_Conflict],
    *,
    gave_lm: bool,
) -> None:
    """Ends a rotation, and says so in the history. There is no way back from it any more."""
    if gave_lm:
        await lms.remove(_V1, "start")
    await log.saw(FORGOTTEN, str(rotation.revision))
    changes = "; ".join(map(str, conflicts))
    told = f"ROTATION=forget: V1 is what the environment says, and not what revision {rotation.revision} made it"
    await flag.change(Change(flag.current.canary_basis_points, Source.ROTATION, "start", f"{told} ({changes})"))
    await log.saw(Source.ROTATION, str(rotation.revision))
    _log.warning("V1 has the environment's specification again: ROTATION=forget", revision=rotation.revision)


async def _accept(log: RolloutLog, rotation: Rollout, base: PoolSpec, *, is_over: bool) -> None:
    """Takes `base` for the environment that goes with the rotation.

    `is_over` tells that the environment asks for what the rotation has given: it alone counts from then on.
    """
    await log.saw(_BASE, msgspec.json.encode(_Base(rotation.revision, base.as_json())).decode())
    if is_over:
        await log.saw(Source.ROTATION, str(rotation.revision))


def _same_code(one: PoolSpec, other: PoolSpec) -> bool:
    return all(getattr(one, name) == getattr(other, name) for name in OF_CODE)


def _with_code(one: PoolSpec, other: PoolSpec) -> PoolSpec:
    """Returns `one` with the code of `other`, and sizes and limits of its own."""
    return replace(one, **{name: getattr(other, name) for name in OF_CODE})


def _combined(rotated: PoolSpec, base: PoolSpec, asked: PoolSpec) -> PoolSpec:
    """Gives the rotated V1 the sizes, limits and preloaded modules that the environment has changed since.

    A rotation that has changed no code leaves the code to the environment.
    """
    own = _with_code(rotated, asked) if _same_code(rotated, base) else rotated
    sized = [name for name in rotated.as_json() if name not in OF_CODE and getattr(asked, name) != getattr(base, name)]
    return replace(own, **{name: getattr(asked, name) for name in sized})


def _tell(rotation: Rollout, spec: PoolSpec) -> None:
    _log.info(
        "V1 has the specification that a rotation gave it, not the environment's",
        revision=rotation.revision,
        by=rotation.updated_by,
        at=rotation.updated_at.isoformat(timespec="seconds"),
        python=spec.python,
        programs_dir=spec.programs_dir,
    )
