"""`/pools`: the pools and their workers."""

import asyncio

from fastapi import APIRouter
from pydantic import Field

from app.api.base import Out
from app.auth import Observer
from app.problems import Problem
from app.services import Running
from pools.protocol import PoolSnapshot
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
    pool = services.pools.get(version)
    if pool is None:
        raise Problem("not_found", f"this service runs no pool {version}")
    return pool_view(await pool.snapshot())
