"""Long runs on two servers with one PostgreSQL: either answers for the other's."""

from pathlib import Path

from tests.conftest import StartService
from tests.replicas.conftest import Postgres
from tests.service.test_async_executions import HOLD, end_of, running, show, start
from tests.support.service import is_alive
from tests.support.waiting import wait_until


def test_any_replica_answers_for_a_long_run(start_service: StartService, postgres: Postgres, tmp_path: Path) -> None:
    """Every replica shows and cancels a job, ends its session and has its result."""
    one, other = (start_service(DATABASE_URL=postgres.url, POOL_VERSION="v2") for _ in range(2))
    hold = one.create("hold", HOLD)

    place = start(one, hold, {"directory": str(tmp_path), "name": "cancelled"})
    pid = running(tmp_path, "cancelled")
    wait_until(lambda: show(other, place)["status"] == "running", "the other sees that it runs")
    other.client.delete(place)
    assert end_of(other, place)["status"] == "cancelled"
    wait_until(lambda: not is_alive(pid), "its program is dead")

    place = start(one, hold, {"directory": str(tmp_path), "name": "of-a-session"}, session_id="shared")
    pid = running(tmp_path, "of-a-session")
    wait_until(lambda: other.client.delete("/sessions/shared").status_code == 204, "the session is known and ends")
    wait_until(lambda: not is_alive(pid), "its program is dead")
    assert other.client.get(place).status_code == 404

    place = start(one, hold, {"directory": str(tmp_path), "name": "ends"})
    running(tmp_path, "ends")
    (tmp_path / "go").touch()
    assert end_of(other, place)["result"]["outputs"] == {"result": "ends"}
    assert show(one, place) == show(other, place)
    other.stop()
    other.start()
    assert show(other, place)["status"] == "succeeded"
