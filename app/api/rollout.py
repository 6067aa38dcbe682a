"""`/rollout`: the flag, its changes, its history, and the way back."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal

from fastapi import Query, Response
from pydantic import AfterValidator, Field

from app.access.auth import Operator, Principal, Reader
from app.api.base import MAX_REVISION, In, Out, Page, Router, page_of
from app.api.preconditions import IfMatch, etag, expected_revision
from app.openapi.document import header, raises
from app.problems import Problem, require_reason
from app.replicas.acts import follow_everywhere, replay_everywhere, wait_until_warm_everywhere
from app.replicas.told import FLUSH, Kept
from app.services import Running, Services
from config.api_keys import Scope
from routing.rollout.model import Change, Rollout, Source, to_basis_points
from routing.versions import Version

router = Router(prefix="/rollout", tags=["rollout"])


class RolloutView(Out):
    """The flag."""

    canary_percent: float
    shadow_percent: float = Field(description="The share of V1's calls that also run on V2, for comparison")
    pool_version: Version | None = Field(description="What POOL_VERSION pins everything to, if it does")
    revision: int
    source: Source | str
    updated_at: datetime
    updated_by: str
    reason: str | None
    stale: bool = Field(
        description="Everything goes to V1, since this replica has not reached the database for longer than "
        "ROLLOUT_MAX_STALENESS_S; revision and source are the last ones that it knows"
    )
    note: str | None = Field(description="Why the flag's percentage is not what the calls get, and when it counts")
    missing_replicas: list[str] = Field(
        default=[],
        description="Replicas of this machine that have not done what was asked of each, with the reason",
    )


class RevisionView(Out):
    """One change of the flag."""

    revision: int
    from_percent: float | None
    to_percent: float
    shadow_percent: float
    source: Source | str
    updated_at: datetime
    updated_by: str
    reason: str | None


def _steps_of_basis_points(percent: float) -> float:
    to_basis_points(percent)
    return percent


Percent = Annotated[
    float,
    Field(ge=0, le=100, allow_inf_nan=False, description="In steps of 0.01"),
    AfterValidator(_steps_of_basis_points),
]


class RolloutBody(In):
    """A change of the flag."""

    canary_percent: Percent | None = None
    shadow_percent: Percent | None = None
    reason: str | None = Field(None, max_length=1024)


class RollbackBody(In):
    """A rollback: its reason, and the fate of calls that run on V2."""

    reason: str | None = Field(None, max_length=1024)
    in_flight: Literal["finish", "replay"] = Field(
        "finish", description="`replay`: idempotent ones are cancelled and run on V1; the others finish on V2"
    )


def rollout_view(rollout: Rollout, services: Services, missing: Sequence[str] = ()) -> RolloutView:
    """Shows the flag; a replica that is cut off from the rollout sends nothing to V2."""
    is_cut_off = services.flag.is_cut_off
    return RolloutView(
        missing_replicas=list(missing),
        canary_percent=0 if is_cut_off else services.percent_of(rollout),
        shadow_percent=shadow_percent_of(rollout, services),
        pool_version=services.pin,
        stale=is_cut_off,
        revision=rollout.revision,
        source=rollout.source,
        updated_at=rollout.updated_at,
        updated_by=rollout.updated_by,
        reason=rollout.reason,
        note=_note(rollout, services),
    )


def _note(rollout: Rollout, services: Services) -> str | None:
    """Says what decides in the place of the flag, if something does."""
    percent = f"{rollout.canary_percent:g} %"
    if Version.V1 not in services.pools:
        is_all = rollout.canary_percent == 100
        return None if is_all else f"POOLS=v2: without V1 all calls are V2's, although the flag has {percent}"
    if services.pin is not None:
        return f"POOL_VERSION={services.pin} pins all calls; V2 gets {percent} from a start without it on"
    return None


def shadow_percent_of(rollout: Rollout, services: Services) -> float:
    """The share of V1's calls that V2 runs a copy of: none on a replica that is cut off from the rollout."""
    return 0 if services.flag.is_cut_off else rollout.shadow_percent


def revision_view(rollout: Rollout) -> RevisionView:
    """Shows a change of the flag."""
    previous = rollout.previous_basis_points
    return RevisionView(
        revision=rollout.revision,
        from_percent=None if previous is None else previous / 100,
        to_percent=rollout.canary_percent,
        shadow_percent=rollout.shadow_percent,
        source=rollout.source,
        updated_at=rollout.updated_at,
        updated_by=rollout.updated_by,
        reason=rollout.reason,
    )


@router.get("", responses={200: {"headers": {"ETag": header("ETag")}}})
async def show_rollout(services: Running, _: Reader, response: Response) -> RolloutView:
    """Shows the flag in force on this replica. Its revision is the ETag; an unwritten rollback has none yet."""
    current = services.flag.current
    if services.flag.is_written:
        response.headers["etag"] = etag(current.revision)
    return rollout_view(current, services)


@router.patch(
    "",
    responses={200: {"headers": {"ETag": header("ETag")}}},
    openapi_extra=raises("stale_revision", "rollback_impossible", "store_unavailable"),
)
async def change_rollout(
    body: RolloutBody,
    services: Running,
    operator: Operator,
    response: Response,
    if_match: IfMatch = None,
) -> RolloutView:
    """Changes the percentage, from the next call on. With `If-Match`, only if nobody else has meanwhile.

    A reason or a share of shadow calls alone is a revision too, of the percentage that is in force. An empty body
    changes nothing. A higher percentage waits until V2 has as many warm workers as it needs, `WARM_TIMEOUT_S` at most;
    if somebody else changes the flag meanwhile, this change is refused as stale.
    """
    if body.canary_percent is None and body.shadow_percent is None and body.reason is None:
        return await show_rollout(services, operator, response)
    require_v1(services)
    current, expected = services.flag.current, expected_revision(if_match)
    if body.canary_percent is not None:
        points = to_basis_points(body.canary_percent)
        expected = await wait_until_warm_everywhere(services, points, expected)
    else:  # what is given is for this percentage, and no other one
        points, expected = current.canary_basis_points, current.revision if expected is None else expected
    shadow = None if body.shadow_percent is None else to_basis_points(body.shadow_percent)
    change = Change(points, Source.API, operator.name, body.reason, shadow)
    rollout = await services.flag.change(change, expected=expected)
    response.headers["etag"] = etag(rollout.revision)
    return rollout_view(rollout, services)


@router.post("/rollback", openapi_extra=raises("rollback_impossible", "stale_revision", "store_unavailable"))
async def roll_back(services: Running, operator: Operator, body: RollbackBody | None = None) -> RolloutView:
    """Sends all traffic to V1, from the next call on. Calls queued for V2 move over; running ones finish."""
    require_v1(services)
    body = body or RollbackBody()
    missing: list[str] = []
    try:
        rollout = await services.flag.rollback(operator.name, body.reason)
    finally:
        if body.in_flight == "replay":
            missing = await replay_everywhere(services)
    return rollout_view(rollout, services, missing)


class RotationBody(In):
    """A rotation: its reason, and if it does without evidence."""

    reason: str | None = Field(None, max_length=1024)
    unproven: bool = Field(
        default=False, description="Rotates without evidence that V2 has been tried: takes the scope admin and a reason"
    )


class UnrotationBody(In):
    """The reason for which a rotation is taken back, and if code that breaks programs may come with that."""

    reason: str | None = Field(None, max_length=1024)
    force: bool = Field(
        default=False,
        description="After a restart of the service: takes V1's code from disk although that breaks programs. It takes "
        "the scope admin and a reason",
    )


class UnrotationView(RolloutView):
    """The flag after a rotation was taken back, and what was changed since the rotation and stays."""

    kept_programs: list[str] = Field(description="Programs that were changed since, and keep their newer definition")
    kept_lm: bool = Field(description="V1's language model was set since, and stays")


_ROTATION_PROBLEMS = ("plan_conflict", "rollback_impossible", "stale_revision", "load_failed", "store_unavailable")


@router.post("/rotate", openapi_extra=raises(*_ROTATION_PROBLEMS, "code_outdated"))
async def rotate_pools(services: Running, operator: Operator, body: RotationBody | None = None) -> RolloutView:
    """Makes V2's specification V1's, and sets 0 %: the next migration can begin. Answers when V1's new workers serve.

    No call is lost, and sessions stay. The percentage must be 0 or 100, and no plan may be under way. V2 must have been
    tried: a plan has promoted it by evidence, or it has served ROTATE_MIN_CALLS with at most 1 % of faults since it was
    rolled back, aborted or unrotated; and calls have tried each of its own definitions. Otherwise an admin may say
    `unproven`, with a reason.
    """
    body = body or RotationBody()
    require_v1(services)
    if body.unproven:
        _check_word("unproven", "to rotate without evidence", operator, body.reason)
    async with services.machine.rotating():
        await services.machine.ask_others(FLUSH, Kept.TRIAL)
        rollout = await services.rotation.rotate(operator.name, body.reason, is_unproven=body.unproven)
    return rollout_view(rollout, services, await follow_everywhere(services, rollout.revision))


@router.post("/unrotate", openapi_extra=raises(*_ROTATION_PROBLEMS))
async def unrotate_pools(services: Running, operator: Operator, body: UnrotationBody | None = None) -> UnrotationView:
    """Takes the newest rotation back: V1 is what it was before, at 0 %. Answers when V1's workers serve.

    V1 has its former specification, language model and definitions again. The definitions that the rotation made
    everyone's are V2's own again. No plan may be under way. V1's workers have the code of then; after a restart of the
    service they have that on disk, which must load the programs, unless an admin says `force`, with a reason.
    """
    body = body or UnrotationBody()
    require_v1(services)
    if body.force:
        _check_word("force", "to take back a rotation by force", operator, body.reason)
    async with services.machine.rotating():
        taken = await services.rotation.unrotate(operator.name, body.reason, is_forced=body.force)
    missing = await follow_everywhere(services, taken.rollout.revision)
    view = rollout_view(taken.rollout, services, missing)
    return UnrotationView(**view.model_dump(), kept_programs=list(taken.kept), kept_lm=taken.keeps_lm)


@router.get("/history", openapi_extra=raises("store_unavailable"))
async def show_history(
    services: Running,
    _: Reader,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Annotated[int | None, Query(ge=1, le=MAX_REVISION, description="`next_cursor` of the page before")] = None,
) -> Page[RevisionView]:
    """Lists the changes, the newest first."""
    found = await services.flag.history(limit=limit + 1, before=cursor)
    return page_of(found, limit, view=revision_view, cursor=lambda rollout: rollout.revision)


def _check_word(word: str, deed: str, operator: Principal, reason: str | None) -> None:
    """Lets an admin alone say `word`, and with a reason. Raises Problem."""
    if not operator.may(Scope.ADMIN):
        raise Problem("forbidden", f"{deed} needs the scope {Scope.ADMIN}")
    require_reason(word, reason)


def require_v1(services: Services) -> None:
    """Refuses to move traffic if there is nothing to move it to.

    Raises:
        Problem: `rollback_impossible`, if the service runs without V1.
    """
    if Version.V1 not in services.pools:
        raise Problem("rollback_impossible", "this service runs without V1 (POOLS=v2): all traffic goes to V2")
