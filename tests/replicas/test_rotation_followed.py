"""A rotation on one replica is followed by the others, each with a pool of its own."""

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import StartService
from tests.replicas.conftest import Postgres
from tests.support.service import Service
from tests.support.waiting import wait_until

SHOP = "def price() -> str:\n    return {0!r}\n\ndef offer() -> str:\n    return '{0} offer'\n"


@pytest.fixture
def checkouts(tmp_path: Path) -> dict[str, Any]:
    """The settings of a service whose V2 has another checkout."""
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "shop.py").write_text(SHOP.format(name))
    return {
        "PROGRAM_MODULES": "shop",
        "ENGINE": "session_pool_v2",
        "POOL_SIZE": 1,
        "PROGRAMS_DIR": tmp_path / "old",
        "V2_PROGRAMS_DIR": tmp_path / "new",
    }


def price(service: Service, program: str) -> tuple[str, str]:
    """The version that served a call, and its answer."""
    answer = service.execute(program)
    assert answer.status_code == 200, answer.text
    return answer.headers["x-pool-version"], answer.json()["outputs"]["result"]


def test_every_replica_rotates(start_service: StartService, postgres: Postgres, checkouts: dict[str, Any]) -> None:
    """No replica ever answers with the old code or the old definition; one that starts later has the new ones."""
    one, other = (start_service(DATABASE_URL=postgres.url, **checkouts) for _ in range(2))
    body = {"program_type": "python", "entrypoint": "shop:price"}
    program = one.client.post("/programs", json=body).json()["id"]
    own = one.client.put(f"/programs/{program}?pool_version=v2", json=body | {"entrypoint": "shop:offer"})
    assert own.status_code == 201, own.text
    one.client.patch("/rollout", json={"canary_percent": 100})
    wait_until(lambda: price(other, program) == ("v2", "new offer"), "the other replica is at 100 %")
    assert one.client.post("/rollout/rotate").json()["canary_percent"] == 0
    assert price(one, program) == ("v1", "new offer")
    seen: set[tuple[str, str]] = set()

    def has_followed() -> bool:
        seen.add(price(other, program))
        return ("v1", "new offer") in seen

    wait_until(has_followed, "the other replica has rotated")
    assert {answer for _, answer in seen} == {"new offer"}
    assert other.client.get("/rollout").json() == one.client.get("/rollout").json()
    late = start_service(DATABASE_URL=postgres.url, **checkouts)
    assert price(late, program) == ("v1", "new offer")
