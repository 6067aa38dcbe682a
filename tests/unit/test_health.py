"""`/healthz` asks for a restart only where one helps; `/readyz` is about the pool that must serve."""

from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from fastapi import FastAPI

from app.api import health
from app.positions.warmth import WarmStart
from app.services import Services
from common.background import Background
from routing.versions import Version
from tests.support.fake_pools import FakePool

pytestmark = pytest.mark.anyio


def client(
    pools: dict[Version, FakePool], pin: Version | None = None, background: Background | None = None
) -> httpx.AsyncClient:
    others: Any = dict.fromkeys(Services.__dataclass_fields__)
    running: Any = SimpleNamespace(engines=pools)
    app = FastAPI()
    app.include_router(health.router)
    app.state.is_draining = False
    app.state.services = Services(
        **{
            **others,
            "pool_set": running,
            "pin": pin,
            "background": background or Background(),
            "warm_start": WarmStart(pools, cast("Any", None), pin or next(iter(pools)), 60.0),
        }
    )
    return httpx.AsyncClient(transport=httpx.ASGITransport(cast("Any", app)), base_url="http://127.0.0.1")


@pytest.mark.parametrize(
    ("pools", "pin", "dead", "status"),
    [
        ("v1 v2", None, "v2", 200),
        ("v1 v2", None, "v1", 503),
        ("v1 v2", Version.V2, "v1", 200),
        ("v1 v2", Version.V2, "v2", 503),
        ("v2", None, "v2", 503),
        ("v2", None, "", 200),
        ("v1 v2", None, "", 200),
        ("v1 v2", None, "v1 v2", 503),
    ],
)
async def test_readyz_is_about_the_pool_that_must_serve(
    pools: str, pin: Version | None, dead: str, status: int
) -> None:
    """V1's, or the only one, or the one that is pinned; each pool is shown."""
    made = {Version(name): FakePool(name) for name in pools.split()}
    for name in dead.split():
        made[Version(name)].is_ready = False
    answer = await client(made, pin).get("/readyz")
    assert answer.status_code == status
    assert answer.json()["pools"] == {name: name not in dead.split() for name in pools.split()}
    said = answer.json()
    assert said["ready"] is (status == 200)
    serving = pin or (Version.V1 if "v1" in pools else Version.V2)
    assert said["missing"] == ([] if status == 200 else [f"pool {serving}"])
    assert said["status"] == ("ready" if status == 200 else "unready")


async def test_healthz_names_the_vital_parts_that_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a minute, and only them; with a dead pool alone the process is healthy."""
    background = Background()
    spawner = background.vital("spawner")
    pools = {Version.V1: FakePool("v1")}
    pools[Version.V1].is_ready = False
    asked = client(pools, background=background)
    spawner.failed()
    assert (await asked.get("/healthz")).json() == {"status": "ok", "failing": []}
    monkeypatch.setattr("common.background.FAILING_AFTER_S", 0.0)
    answer = await asked.get("/healthz")
    assert (answer.status_code, answer.json()) == (503, {"status": "failing", "failing": ["spawner"]})
    spawner.works()
    assert (await asked.get("/healthz")).status_code == 200
