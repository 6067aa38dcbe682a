"""`/pools`: what is inside them."""

import asyncio

from fastapi import APIRouter

from app.api.schemas import PoolView, pool_view
from app.auth import Admin
from app.problems import Problem
from app.services import Running
from routing.versions import Version

router = APIRouter(prefix="/pools", tags=["pools"])


@router.get("")
async def list_pools(parts: Running, _: Admin) -> list[PoolView]:
    """Every pool with its workers."""
    snapshots = await asyncio.gather(*(pool.snapshot() for pool in parts.pools.values()))
    return [pool_view(snapshot) for snapshot in snapshots]


@router.get("/{version}")
async def show_pool(version: Version, parts: Running, _: Admin) -> PoolView:
    """One pool with its workers."""
    pool = parts.pools.get(version)
    if pool is None:
        raise Problem("not_found", f"this service runs no pool {version}")
    return pool_view(await pool.snapshot())
