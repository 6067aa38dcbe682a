"""`/healthz`, `/readyz` and `/metrics`: for orchestrators and Prometheus, without a key."""

import asyncio
from typing import Annotated, Literal

from fastapi import APIRouter, Header, Request, Response
from prometheus_client.exposition import choose_encoder

from app.api.base import Out
from app.services import Running

router = APIRouter(tags=["health"])


class Health(Out):
    """The process lives."""

    status: Literal["ok"] = "ok"


class Readiness(Out):
    """Whether the service can serve, and each pool with it."""

    ready: bool
    draining: bool
    pools: dict[str, bool]


@router.get("/healthz")
async def healthz() -> Health:
    """The process lives, whatever it can do: only a restart would help where this does not answer."""
    return Health()


@router.get("/readyz", responses={503: {"model": Readiness}})
async def readyz(request: Request, response: Response) -> Readiness:
    """It can serve: every pool has a live worker, and no shutdown has begun."""
    pools = {str(version): pool.is_ready for version, pool in request.app.state.services.pools.items()}
    draining: bool = request.app.state.is_draining
    ready = all(pools.values()) and not draining
    response.status_code = 200 if ready else 503
    return Readiness(ready=ready, draining=draining, pools=pools)


@router.get("/metrics", response_class=Response)
async def metrics(services: Running, accept: Annotated[str, Header()] = "") -> Response:
    """Every figure, for Prometheus (or as OpenMetrics, where that is asked for)."""
    snapshots = await asyncio.gather(*(pool.snapshot() for pool in services.pools.values()))
    services.figures.update(snapshots, services.sessions.active())
    encode, content_type = choose_encoder(accept)
    return Response(encode(services.registry), headers={"content-type": content_type})
