"""docs/sessions.md: what it says and no other test tries."""

import concurrent.futures
import re
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from pools.state import REMEMBERED_SESSIONS
from routing.catalog.texts import ID_PATTERN, MAX_ID_LENGTH
from tests.conftest import StartService
from tests.service.test_errors import problem
from tests.support.pages import codes, links, page, table
from tests.support.service import ROOT, Service
from tests.support.waiting import wait_until

PAGE = page("sessions.md")
ECHO = {"nonce": "string"}


@pytest.mark.parametrize("row", table(PAGE, "what"), ids=lambda row: row["what"])
def test_the_test_of_a_row_is_there(row: dict[str, str]) -> None:
    """And is a test function of the service tests."""
    file, _, function = codes(row["is tried by"])[0].partition("::")
    source = (ROOT / "tests" / "service" / file).read_text()
    assert re.search(rf"^def {function}\(", source, re.MULTILINE)


def test_the_numbers_of_the_page() -> None:
    """Are the code's."""
    assert f"{REMEMBERED_SESSIONS:,}".replace(",", " ") in PAGE
    (length, alphabet) = re.findall(r"up to (\d+) of `([^`]+)`", PAGE)[0]
    assert int(length) == MAX_ID_LENGTH
    for part in alphabet.split():
        for character in part.split("-") if len(part) == 3 else part:
            assert re.match(ID_PATTERN, f"a{character}"), character


def test_a_namespace_is_listed_shown_and_deleted(shared_service: Service, version: str) -> None:
    """A session lists its own programs; showing means what a call would, and deleting the session's own alone."""
    name, session = f"namespace-{version}", f"lister-{version}"
    shared_service.create("echo", ECHO, id=name)
    shared_service.create("echo", ECHO, id=f"{name}-own", session_id=session)
    of_session = {"session_id": session}
    listed = shared_service.client.get("/programs", params=of_session).json()["items"]
    assert [item["id"] for item in listed] == [f"{name}-own"]
    assert shared_service.client.get(f"/programs/{name}-own").status_code == 404
    assert shared_service.client.get(f"/programs/{name}", params=of_session).json()["session_id"] is None
    assert shared_service.client.delete(f"/programs/{name}", params=of_session).status_code == 404
    assert shared_service.client.get(f"/programs/{name}").status_code == 200
    assert shared_service.client.delete(f"/programs/{name}-own", params=of_session).status_code == 204
    assert shared_service.client.delete(f"/programs/{name}").status_code == 204


def test_what_prolongs_a_session(shared_service: Service, version: str) -> None:
    """An execution does, whatever comes of it; a look does not."""
    session = f"prolonged-{version}"
    echo = shared_service.create("echo", ECHO, session_id=session)
    fails = shared_service.create("fail", {"message": "string"}, session_id=session)

    def seen() -> datetime:
        view = shared_service.client.get(f"/sessions/{session}").json()
        last, until = (datetime.fromisoformat(view[name]) for name in ("last_seen_at", "expires_at"))
        assert until - last == timedelta(hours=1)
        return last

    def prolongs(program: str, inputs: dict[str, str], status: int, before: datetime) -> bool:
        assert shared_service.execute(program, inputs=inputs, session_id=session).status_code == status
        return seen() > before

    created = seen()
    assert seen() == created
    # More than once if need be: the times are whole milliseconds, and two calls may fall into one.
    wait_until(lambda: prolongs(fails, {"message": "x"}, 500, created), "a call that fails prolongs the session")
    failed = seen()
    wait_until(lambda: prolongs(echo, {"nonce": "a"}, 200, failed), "a call that succeeds prolongs the session")


def test_ending_a_session_amid_a_call(start_service: StartService, version: str, tmp_path: Path) -> None:
    """The call is answered; it does not begin the session again, which had a program of its own."""
    service = start_service(POOL_VERSION=version)
    program = service.create("hold", {"directory": "string", "name": "string"}, session_id="mine")
    with concurrent.futures.ThreadPoolExecutor(1) as caller:
        inputs = {"directory": str(tmp_path), "name": "a"}
        call = caller.submit(service.execute, program, inputs=inputs, session_id="mine")
        wait_until(lambda: bool(list(tmp_path.glob("a.*"))), "the call runs")
        assert service.client.delete("/sessions/mine").status_code == 204
        problem(service.client.get("/sessions/mine"), 404, "session_not_found")
        problem(service.execute(program, inputs=inputs, session_id="mine"), 410, "session_ended")
        (tmp_path / "go").touch()
        assert call.result().status_code == 200
    problem(service.client.get("/sessions/mine"), 404, "session_not_found")


def test_a_rollback_that_replays(start_service: StartService, tmp_path: Path) -> None:
    """An idempotent call that runs on V2 is cancelled there and run on V1; any other ends on V2."""
    service = start_service(CANARY_PERCENT=100)
    inputs = {"directory": "string", "name": "string"}
    programs = {name: service.create("hold", inputs, idempotent=name == "idempotent") for name in ("idempotent", "not")}
    with concurrent.futures.ThreadPoolExecutor(2) as callers:
        calls = {
            name: callers.submit(service.execute, program, inputs={"directory": str(tmp_path), "name": name})
            for name, program in programs.items()
        }
        wait_until(lambda: len(list(tmp_path.glob("*.*"))) == 2, "both calls run on V2")
        assert service.client.post("/rollout/rollback", json={"in_flight": "replay"}).status_code == 200
        wait_until(lambda: len(list(tmp_path.glob("idempotent.*"))) == 2, "the idempotent one runs on V1")
        (tmp_path / "go").touch()
        served = {name: call.result().headers["x-pool-version"] for name, call in calls.items()}
    assert served == {"idempotent": "v1", "not": "v2"}


def test_a_session_moves_on_where_its_worker_is_busy(start_service: StartService, tmp_path: Path) -> None:
    """V2 gives its second call to another worker (V1 runs one call at a time anyway)."""
    service = start_service(POOL_VERSION="v2")
    hold = service.create("hold", {"directory": "string", "name": "string"})
    who = service.create("whoami", {}, "object")
    with concurrent.futures.ThreadPoolExecutor(1) as caller:
        inputs = {"directory": str(tmp_path), "name": "a"}
        call = caller.submit(service.execute, hold, inputs=inputs, session_id="mine")
        wait_until(lambda: bool(list(tmp_path.glob("a.*"))), "the call runs")
        (holder,) = tmp_path.glob("a.*")
        other = service.execute(who, session_id="mine").json()["outputs"]["result"]["pid"]
        assert other != int(holder.suffix[1:])
        (tmp_path / "go").touch()
        assert call.result().status_code == 200


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "docs").glob("*.md")))
def test_a_page_points_to_files_that_exist(name: str) -> None:
    """No link of `docs` leads nowhere."""
    for path in links(page(name)):
        assert path.exists(), path
