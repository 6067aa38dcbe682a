"""`/pools`: the pools and their workers."""

import asyncio
from datetime import datetime

from pydantic import Field

from app.access.auth import Observer
from app.api.base import Out, Router
from app.api.rollout import require_v1
from app.openapi.document import raises
from app.positions.difference import Change, PoolDifference, PoolIdentity
from app.positions.identity import identity_of, pools_difference
from app.positions.new_code import MAX_NAMED
from app.positions.reload import Reload
from app.problems import Problem
from app.replicas.machine import Answers, Told
from app.replicas.told import POOLS, PoolTold
from app.replicas.views import newest, whole_pool
from app.services import Running, Services
from routing.versions import Version

router = Router(prefix="/pools", tags=["pools"])


class WorkerView(Out):
    """A worker, measured on its process."""

    pid: int
    node: str | None = Field(None, description="The node of a cluster that it is on; null is the service's machine")
    replica: int | None = Field(None, description="The replica that it works for; null if the machine has one process")
    state: str
    age_s: float
    executions: int
    rss_bytes: int | None
    cpu_seconds: float | None
    open_fds: int | None
    programs_revision: str = Field(description="The revision of the programs' code that it has")
    calls: int = Field(0, description="The calls that run on it, one at most unless the engine is `async_pool`")
    execution_id: str | None = Field(None, description="The running call; of several, the oldest")
    program_id: str | None = None
    running_s: float | None = Field(None, description="Seconds since the worker got the running call")


class BrokenProgramView(Out):
    """A program that the code before loaded and the code after does not."""

    program_id: str
    reason: str


class ReloadView(Out):
    """A reload that has replaced a pool's workers."""

    at: datetime
    by: str = Field(description="The key that asked; `SIGHUP`, or `--reload` of the service itself")
    reason: str | None
    previous: bool = Field(description="True if it brought the code before the last reload back")
    forced: bool
    before: str | None = Field(description="The revision of the code that the workers had")
    after: str | None = Field(description="The revision of the code that they have now")
    tried: int = Field(description="The definitions of programs that were tried with the new code")
    untried: int = Field(description="Those for which RELOAD_CHECK_TIMEOUT_S was too short")
    broken: list[BrokenProgramView] = Field(description="The programs that it broke, since it was forced")


class RunAloneView(Out):
    """A program that could run beside others, and has a worker of the pool for itself for some reason."""

    program_id: str
    reason: str


class PoolTotals(Out):
    """Counts since the start of the service."""

    dispatched: int
    worker_starts: int
    worker_exits: dict[str, int]
    cpu_seconds: float


class PoolView(Out):
    """One pool: what it is, and how it is on all replicas of this machine together."""

    pool_version: Version
    engine: str
    python: str | None = Field(description="The version of the workers' Python; null if it cannot run workers")
    interpreter: str | None = Field(description="The interpreter that the settings name; null is the service's own")
    packages: dict[str, str] | None = Field(None, description="Name and version of all that a worker can import")
    programs_dir: str | None = Field(description="The folder that is first on the workers' path")
    worker_env_file: str | None = Field(description="The file with more variables for the workers")
    preload: list[str]
    workers_on: str = Field(description="`local` for workers on the service's machine, `ray` for those of a cluster")
    lm: str | None = Field(description="The model that programs use; null if there is none")
    fault: str | None = Field(description="Why the last start of a worker failed, if none has succeeded since")
    ready: bool
    size: int = Field(description="The workers that it is to have now; less than `wished_size` if nodes are lacking")
    wished_size: int | None = Field(None, description="The workers that the settings ask for")
    busy: int
    idle: int
    starting: int
    warm: int = Field(
        description="Live workers that have loaded the programs which were used lately, as far as they can"
    )
    stopping: int
    queue_depth: int
    utilization: float
    service_time_s: float = Field(description="Moving average of the time that a call takes on a worker")
    programs_revision: str | None = Field(description="The revision of the code that new workers have")
    previous_revision: str | None = Field(
        None, description="The revision of the code before the last reload, which `previous` brings back; null if none"
    )
    last_reload: ReloadView | None = Field(None, description="The last reload since the pool started")
    programs_commit: str | None = Field(
        description="The git commit of that code, with `-dirty` if it differs; null if it is of no single repository"
    )
    totals: PoolTotals
    run_alone: list[RunAloneView] = Field(
        description="Programs of the engine `async_pool` whose calls are kept apart from others, and why"
    )
    workers: list[WorkerView]
    missing_replicas: list[str] = Field(
        description="Replicas of this machine whose part is missing here, with the reason, such as `1: silent`"
    )


class DifferenceView(Out):
    """One thing that V2 changes; null is absent or unknown."""

    what: str
    v1: str | None
    v2: str | None


class PoolDifferenceView(Out):
    """All that V2 changes."""

    summary: str = Field(description="The difference in one line; `nothing` if there is none")
    changes: list[DifferenceView]
    packages: list[DifferenceView]
    package_count: int = Field(description="The packages of both pools together")


def difference_view(found: PoolDifference) -> PoolDifferenceView:
    """Shows the difference between the pools."""

    def shown(changes: tuple[Change, ...]) -> list[DifferenceView]:
        return [DifferenceView(what=one.what, v1=one.v1, v2=one.v2) for one in changes]

    return PoolDifferenceView(
        summary=found.summary,
        changes=shown(found.changes),
        packages=shown(found.packages),
        package_count=found.package_count,
    )


def _reload_view(done: Reload) -> ReloadView:
    broken = [BrokenProgramView.model_validate(one, from_attributes=True) for one in done.found.broken[:MAX_NAMED]]
    return ReloadView(
        at=done.at,
        by=done.asked.by,
        reason=done.asked.reason,
        previous=done.asked.is_previous,
        forced=done.asked.is_forced,
        before=done.before,
        after=done.after,
        tried=done.found.tried,
        untried=done.found.untried,
        broken=broken,
    )


def pool_view(
    version: Version,
    answers: Answers[dict[Version, PoolTold]],
    identity: PoolIdentity,
    *,
    with_packages: bool = True,
) -> PoolView:
    """Shows a pool, from what all replicas have told."""
    parts = [Told(one.replica, one.answer[version]) for one in answers.told if version in one.answer]
    snapshot = whole_pool([Told(part.replica, part.answer.snapshot) for part in parts])
    last = newest(part.answer.last_reload for part in parts)
    return PoolView(
        pool_version=version,
        engine=identity.spec.engine,
        python=identity.python,
        interpreter=identity.spec.python,
        packages=dict(identity.packages) if with_packages else None,
        programs_dir=identity.spec.programs_dir,
        worker_env_file=identity.spec.worker_env_file,
        preload=list(identity.spec.preload),
        workers_on=identity.spec.workers,
        lm=identity.lm,
        fault=snapshot.fault,
        ready=snapshot.is_ready,
        size=snapshot.size,
        wished_size=snapshot.wished_size,
        busy=snapshot.busy,
        idle=snapshot.idle,
        starting=snapshot.starting,
        warm=snapshot.warm,
        stopping=snapshot.stopping,
        queue_depth=snapshot.queue_depth,
        utilization=snapshot.utilization,
        service_time_s=snapshot.service_time_s,
        programs_revision=snapshot.programs_revision,
        previous_revision=snapshot.previous_revision,
        last_reload=None if last is None else _reload_view(last),
        programs_commit=identity.programs_commit,
        totals=PoolTotals(
            dispatched=snapshot.dispatched_total,
            worker_starts=snapshot.worker_starts_total,
            worker_exits={str(cause): count for cause, count in snapshot.worker_exits_total.items()},
            cpu_seconds=snapshot.cpu_seconds_total,
        ),
        run_alone=[RunAloneView.model_validate(one, from_attributes=True) for one in snapshot.run_alone],
        workers=[WorkerView.model_validate(worker, from_attributes=True) for worker in snapshot.workers],
        missing_replicas=answers.missing_replicas,
    )


@router.get("")
async def list_pools(services: Running, _: Observer) -> list[PoolView]:
    """Lists the pools with their workers. The packages of a pool are in the view of that pool alone."""
    identities = await asyncio.gather(*(identity_of(version, services) for version in services.pools))
    answers = await services.machine.ask(POOLS, None)
    return [
        pool_view(version, answers, identity, with_packages=False)
        for version, identity in zip(services.pools, identities, strict=True)
    ]


@router.get("/diff", openapi_extra=raises("rollback_impossible"))
async def show_difference(services: Running, _: Observer) -> PoolDifferenceView:
    """Tells what V2 changes against V1: Python, packages, code, language model, engine and limits."""
    require_v1(services)
    return difference_view(await pools_difference(services))


@router.get("/{version}")
async def show_pool(version: Version, services: Running, _: Observer) -> PoolView:
    """Shows a pool with its workers and the packages that they find."""
    require_pool(version, services)
    identity = await identity_of(version, services)
    return pool_view(version, await services.machine.ask(POOLS, None), identity)


def require_pool(version: Version, services: Services) -> None:
    """Raises Problem if the service runs no such pool."""
    if version not in services.pools:
        raise Problem("not_found", f"this service runs no pool {version}")
