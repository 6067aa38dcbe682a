"""A rotation on one replica is followed by the others, each with a pool of its own."""

import signal
from functools import partial
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
    rotation = one.client.post("/rollout/rotate", json={"unproven": True, "reason": "a test"})
    assert rotation.json()["canary_percent"] == 0, rotation.text
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


def rotates_by_calls_of(other: Service, one: Service, program: str) -> bool:
    """Calls the other replica, and rotates on the one that has served nothing."""
    for _ in range(2):
        price(other, program)
    return one.client.post("/rollout/rotate").status_code == 200


def test_every_replica_takes_a_rotation_back(
    start_service: StartService, postgres: Postgres, checkouts: dict[str, Any]
) -> None:
    """Each from the code that its V1 had, whatever is on disk by then; one that dies and starts anew goes on."""
    one, other = (start_service(DATABASE_URL=postgres.url, ROTATE_MIN_CALLS=20, **checkouts) for _ in range(2))
    body = {"program_type": "python", "entrypoint": "shop:price"}
    program = one.client.post("/programs", json=body).json()["id"]
    own = one.client.put(f"/programs/{program}?pool_version=v2", json=body | {"entrypoint": "shop:offer"})
    assert own.status_code == 201, own.text
    one.client.patch("/rollout", json={"canary_percent": 100})
    wait_until(lambda: price(other, program) == ("v2", "new offer"), "the other replica is at 100 %")
    assert one.client.post("/rollout/rotate").json()["code"] == "plan_conflict"  # a call is too few
    wait_until(partial(rotates_by_calls_of, other, one, program), "the calls of both are evidence")
    wait_until(lambda: price(other, program) == ("v1", "new offer"), "the other replica has rotated")
    (checkouts["PROGRAMS_DIR"] / "shop.py").write_text("this is no Python\n")
    back = other.client.post("/rollout/unrotate")
    assert back.status_code == 200, back.text
    assert price(other, program) == ("v1", "old")
    wait_until(lambda: price(one, program) == ("v1", "old"), "the other replica has followed")
    assert one.client.get("/rollout").json() == other.client.get("/rollout").json()
    assert one.client.get(f"/programs/{program}").json()["v2"]["entrypoint"] == "shop:offer"
    (checkouts["PROGRAMS_DIR"] / "shop.py").write_text(SHOP.format("old"))
    one.stop(signal.SIGKILL)
    one.start()
    assert price(one, program) == ("v1", "old")
