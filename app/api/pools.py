"""`/pools`: the pools and their workers."""

import asyncio

from pydantic import Field

from app.access.auth import Observer, Operator
from app.api.base import Out, Router
from app.api.rollout import require_v1
from app.openapi.document import raises
from app.positions.difference import Change, PoolDifference, PoolIdentity
from app.positions.identity import identity_of, pools_difference
from app.problems import Problem
from app.services import Running, Services
from pools.errors import SpawnFailed
from pools.protocol import Pool, PoolSnapshot
from routing.versions import Version

router = Router(prefix="/pools", tags=["pools"])


class WorkerView(Out):
    """A worker, measured on its process."""

    pid: int
    node: str | None = Field(None, description="The node of a cluster that it is on; null is the service's machine")
    state: str
    age_s: float
    executions: int
    rss_bytes: int | None
    cpu_seconds: float | None
    open_fds: int | None
    programs_revision: str = Field(description="The revision of the programs' code that it has")
    execution_id: str | None = Field(None, description="The running call")
    program_id: str | None = None
    running_s: float | None = Field(None, description="Seconds since the worker got the running call")


class PoolTotals(Out):
    """Counts since the start of the service."""

    dispatched: int
    worker_starts: int
    worker_exits: dict[str, int]
    cpu_seconds: float


class PoolView(Out):
    """One pool: what it is, and how it is."""

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
    stopping: int
    queue_depth: int
    utilization: float
    service_time_s: float = Field(description="Moving average of the time that a call takes on a worker")
    programs_revision: str | None = Field(description="The revision of the code that new workers have")
    programs_commit: str | None = Field(
        description="The git commit of that code, with `-dirty` if it differs; null if it is of no single repository"
    )
    totals: PoolTotals
    workers: list[WorkerView]


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


def pool_view(snapshot: PoolSnapshot, identity: PoolIdentity, *, with_packages: bool = True) -> PoolView:
    """Shows a pool."""
    return PoolView(
        pool_version=Version(snapshot.version),
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
        stopping=snapshot.stopping,
        queue_depth=snapshot.queue_depth,
        utilization=snapshot.utilization,
        service_time_s=snapshot.service_time_s,
        programs_revision=snapshot.programs_revision,
        programs_commit=identity.programs_commit,
        totals=PoolTotals(
            dispatched=snapshot.dispatched_total,
            worker_starts=snapshot.worker_starts_total,
            worker_exits={str(cause): count for cause, count in snapshot.worker_exits_total.items()},
            cpu_seconds=snapshot.cpu_seconds_total,
        ),
        workers=[WorkerView.model_validate(worker, from_attributes=True) for worker in snapshot.workers],
    )


@router.get("")
async def list_pools(services: Running, _: Observer) -> list[PoolView]:
    """Lists the pools with their workers. The packages of a pool are in the view of that pool alone."""
    identities = await asyncio.gather(*(identity_of(version, services) for version in services.pools))
    snapshots = await asyncio.gather(*(pool.snapshot() for pool in services.pools.values()))
    return [
        pool_view(snapshot, identity, with_packages=False)
        for snapshot, identity in zip(snapshots, identities, strict=True)
    ]


@router.get("/diff", openapi_extra=raises("rollback_impossible"))
async def show_difference(services: Running, _: Observer) -> PoolDifferenceView:
    """Tells what V2 changes against V1: Python, packages, code, language model, engine and limits."""
    require_v1(services)
    return difference_view(await pools_difference(services))


@router.get("/{version}")
async def show_pool(version: Version, services: Running, _: Observer) -> PoolView:
    """Shows a pool with its workers and the packages that they find."""
    pool = _pool(version, services)
    identity = await identity_of(version, services)
    return pool_view(await pool.snapshot(), identity)


@router.post("/{version}/reload", openapi_extra=raises("load_failed", "pool_closed"))
async def reload_pool(version: Version, services: Running, operator: Operator) -> PoolView:
    """Replaces the workers, one after another, by workers with the code that is on disk; answers when it is done.

    No call is lost. A worker that is at a call is replaced after it. If the code cannot be loaded ahead of the workers
    (`PRELOAD`), they stay as they are.
    """
    _pool(version, services)
    try:
        await services.reloader.reload([version])
    except SpawnFailed as error:
        raise Problem("load_failed", f"the workers keep their code: {error}") from None
    return await show_pool(version, services, operator)


def _pool(version: Version, services: Services) -> Pool:
    pool = services.pools.get(version)
    if pool is None:
        raise Problem("not_found", f"this service runs no pool {version}")
    return pool
