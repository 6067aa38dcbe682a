"""`/healthz`, `/readyz` and `/metrics`: for orchestrators and Prometheus, without a key."""

from typing import Annotated, Any, Literal

from fastapi import Header, Request, Response
from prometheus_client.exposition import choose_encoder
from pydantic import Field

from app.api.base import Out, Router
from app.openapi.document import raises
from app.replicas.exposition import merged
from app.replicas.told import METRICS
from app.services import Running, Services
from common.threads import in_thread

router = Router(tags=["health"])


_METRICS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Prometheus' text, or OpenMetrics",
        "content": {
            media_type: {"schema": {"type": "string"}, "example": "poolshift_canary_percent 5.0\n"}
            for media_type in ("text/plain", "application/openmetrics-text")
        },
    }
}


class Health(Out):
    """The state of the process; `failing` lists the vital parts that a restart of the process would repair."""

    status: Literal["ok", "failing"]
    failing: list[str]


class Readiness(Out):
    """The state of the service, and of each pool."""

    status: Literal["ready", "unready", "draining"]
    ready: bool
    draining: bool
    missing: list[str] = Field(description="The parts that the service cannot serve without, and that are not there")
    pools: dict[str, bool]


@router.get("/healthz", responses={503: {"model": Health}})
async def healthz(request: Request, response: Response) -> Health:
    """Says whether the process works; 503 asks for a restart, since a vital part has failed for a minute.

    Faults outside of the process (the database, the LM, the collector) never show here.
    """
    services: Services = request.app.state.services
    failing = services.background.failing()
    response.status_code = 503 if failing else 200
    return Health(status="failing" if failing else "ok", failing=failing)


@router.get("/readyz", responses={503: {"model": Readiness}})
async def readyz(request: Request, response: Response) -> Readiness:
    """Says whether the service can serve: the pool that must serve has a live worker, and no shutdown has begun.

    At the start, each pool also needs as many warm workers as its share of the traffic takes, and all replicas of the
    machine must serve, for `WARM_TIMEOUT_S` at most. `missing` names the pool that has none;
    `GET /pools/{version}` tells the reason, and needs a key. That pool is V1, or the only one, or the one that
    `POOL_VERSION` names. Another pool without a worker is shown, and does not make the service unready.
    """
    services: Services = request.app.state.services
    pools = {str(version): pool.is_ready for version, pool in services.pools.items()}
    draining: bool = request.app.state.is_draining
    serving = services.serving_version
    missing = services.warm_start.missing() if services.pools[serving].is_ready else [f"pool {serving}"]
    ready = not missing and not draining
    response.status_code = 200 if ready else 503
    status: Literal["ready", "unready", "draining"] = "draining" if draining else "ready" if ready else "unready"
    return Readiness(status=status, ready=ready, draining=draining, missing=missing, pools=pools)


@router.get("/metrics", response_class=Response, responses=_METRICS, openapi_extra=raises("store_unavailable"))
async def metrics(services: Running, accept: Annotated[str, Header()] = "") -> Response:
    """Every figure of all replicas of this machine, for Prometheus (or as OpenMetrics, if that is asked for)."""
    answers = await services.machine.ask(METRICS, accept)
    services.recorder.scraped()
    texts = {one.replica: one.answer for one in answers.told}
    presences = services.machine.presences()
    _, content_type = choose_encoder(accept)
    return Response(await in_thread(lambda: merged(texts, presences)), headers={"content-type": content_type})
