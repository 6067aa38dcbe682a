"""`/pools`: the pools and their workers."""

import asyncio

from fastapi import APIRouter
from pydantic import Field

from app.api.base import Out
from app.auth import Observer, Operator
from app.problems import Problem
from app.services import Running, Services
from pools.errors import SpawnFailed
from pools.protocol import Pool, PoolSnapshot
from routing.versions import Version

router = APIRouter(prefix="/pools", tags=["pools"])


class WorkerView(Out):
    """A worker, measured on its process."""

    pid: int
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
    """One pool."""

    pool_version: Version
    ready: bool
    size: int
    busy: int
    idle: int
    starting: int
    stopping: int
    queue_depth: int
    utilization: float
    service_time_s: float = Field(description="Moving average of the time that a call takes on a worker")
    programs_revision: str | None = Field(description="The revision of the code that new workers have")
    totals: PoolTotals
    workers: list[WorkerView]


def pool_view(snapshot: PoolSnapshot) -> PoolView:
    """Shows a pool."""
    return PoolView(
        pool_version=Version(snapshot.version),
        ready=snapshot.is_ready,
        size=snapshot.size,
        busy=snapshot.busy,
        idle=snapshot.idle,
        starting=snapshot.starting,
        stopping=snapshot.stopping,
        queue_depth=snapshot.queue_depth,
        utilization=snapshot.utilization,
        service_time_s=snapshot.service_time_s,
        programs_revision=snapshot.programs_revision,
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
    """Lists the pools with their workers."""
    snapshots = await asyncio.gather(*(pool.snapshot() for pool in services.pools.values()))
    return [pool_view(snapshot) for snapshot in snapshots]


@router.get("/{version}")
async def show_pool(version: Version, services: Running, _: Observer) -> PoolView:
    """Shows a pool with its workers."""
    return pool_view(await _pool(version, services).snapshot())


@router.post("/{version}/reload")
async def reload_pool(version: Version, services: Running, _: Operator) -> PoolView:
    """Replaces the workers, one after another, by workers with the code that is on disk; answers when it is done.

    No call is lost. A worker that is at a call is replaced after it. If the code cannot be loaded ahead of the workers
    (`PRELOAD`), they stay as they are.
    """
    pool = _pool(version, services)
    try:
        await services.reloader.reload([version])
    except SpawnFailed as error:
        raise Problem("load_failed", f"the workers keep their code: {error}") from None
    return pool_view(await pool.snapshot())


def _pool(version: Version, services: Services) -> Pool:
    pool = services.pools.get(version)
    if pool is None:
        raise Problem("not_found", f"this service runs no pool {version}")
    return pool
