"""Batches: every item has an outcome of its own, and others find room beside them."""

import concurrent.futures
import os
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import StartService
from tests.service.test_errors import problem
from tests.service.test_faults import busy, exits
from tests.service.test_rollback_moves import HOLD
from tests.support.service import Service
from tests.support.waiting import wait_until

ECHO = {"nonce": "string"}


def batch(service: Service, program: str, inputs: list[Any], **more: Any) -> httpx.Response:
    """Runs a batch; `headers` are the request's, everything else is the body's."""
    headers = more.pop("headers", None)
    return service.client.post(f"/programs/{program}/batch", json={"inputs": inputs, **more}, headers=headers)


def items_of(answer: httpx.Response) -> list[dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


def holds(directory: Path, count: int) -> list[dict[str, str]]:
    """The inputs of so many items of `hold`."""
    return [{"directory": str(directory), "name": f"item{number:02}"} for number in range(count)]


def begun(directory: Path) -> int:
    """The number of runs of `hold` that have begun, those that were run again included."""
    return len(list(directory.glob("item*.*")))


def test_each_item_has_its_own_outcome_in_order(shared_service: Service, version: str) -> None:
    """Answers and problems are those of an execute call, and each item counts once as `batch`."""
    echo = shared_service.create("echo", ECHO)
    counted = {"pool_version": version, "operation": "batch"}
    before = shared_service.metric("poolshift_requests_total", **counted)
    failed = shared_service.metric("poolshift_requests_total", **counted, outcome="invalid_inputs")
    items = items_of(
        batch(shared_service, echo, [{"nonce": "a"}, {"nonce": 1}, {}, *({"nonce": str(n)} for n in range(20))])
    )
    assert [item.get("outputs", item.get("code")) for item in items] == [
        {"result": "a"},
        "invalid_inputs",
        "invalid_inputs",
        *({"result": str(number)} for number in range(20)),
    ]
    alone = shared_service.execute(echo, inputs={"nonce": "a"}).json()
    assert items[0].keys() == alone.keys()
    assert items[1].keys() == shared_service.execute(echo, inputs={"nonce": 1}).json().keys()
    assert len({item["execution_id"] for item in items}) == len(items)
    assert {item["pool_version"] for item in items} == {version}
    assert shared_service.metric("poolshift_requests_total", **counted) == before + len(items)
    assert shared_service.metric("poolshift_requests_total", **counted, outcome="invalid_inputs") == failed + 2
    assert shared_service.client.get(f"/programs/{echo}").json()["execution_count"] == len(items) + 2
    assert items_of(batch(shared_service, echo, [])) == []


def test_an_item_that_kills_its_worker_harms_no_other(shared_service: Service) -> None:
    """The items before and after a crash have their results."""
    program = shared_service.create("exits_if", {"nonce": "string"})
    items = items_of(batch(shared_service, program, [{"nonce": nonce} for nonce in ("a", "exit", "b", "c")]))
    assert [item.get("outputs", {}).get("result", item.get("exit_cause")) for item in items] == [
        "a",
        "exit code 1",
        "b",
        "c",
    ]


def test_items_of_a_session_see_its_programs_and_its_version(start_service: StartService) -> None:
    """A session's batch goes to one version; without a key the items are split one by one."""
    service = start_service(CANARY_PERCENT=50)
    service.create("echo", ECHO, id="own", session_id="a-session")
    inputs = [{"nonce": str(number)} for number in range(40)]
    assert len({item["pool_version"] for item in items_of(batch(service, "own", inputs, session_id="a-session"))}) == 1
    assert problem(batch(service, "own", inputs), 404, "program_not_found")
    program = service.create("echo", ECHO)
    by_key = items_of(batch(service, program, inputs, headers={"X-Canary-Key": "one"}))
    assert len({item["pool_version"] for item in by_key}) == 1
    assert {item["pool_version"] for item in items_of(batch(service, program, inputs))} == {"v1", "v2"}
    forced = items_of(batch(service, program, inputs, headers={"X-Pool-Version": "v2"}))
    assert {item["pool_version"] for item in forced} == {"v2"}

    def organic_calls() -> int:
        (row,) = [row for row in service.client.get("/rollout/analysis").json() if row["name"] == "engine"]
        return int(row["v1"]["calls"] + row["v2"]["calls"])

    wait_until(lambda: organic_calls() == 3 * len(inputs), "the judge has counted each item that was not forced")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"inputs": {}}',
        b'{"inputs": [{}, 1]}',
        b'{"inputs": [[]]}',
        b'{"inputs": [{}], "timeout_s": 0}',
        b'{"inputs": [{}], "more": 1}',
        b'{"inputs": [{}], "session_id": "no session"}',
        b'{"inputs": [' + b",".join([b"{}"] * 1001) + b"]}",
        b'{"inputs": [{"a": ' + b"[" * 100_000 + b"]}",
    ],
)
def test_a_malformed_batch_runs_nothing(shared_service: Service, body: bytes) -> None:
    """422 says what is wrong, and no item has run."""
    program = shared_service.create("echo", ECHO)
    answer = shared_service.client.post(f"/programs/{program}/batch", content=body)
    assert problem(answer, 422, "invalid_request")
    assert shared_service.client.get(f"/programs/{program}").json()["execution_count"] == 0


def test_a_batch_of_the_wrong_size_or_version(shared_service: Service) -> None:
    """A body over the limit is refused unread, and so are an unknown version, program and method."""
    program = shared_service.create("echo", ECHO)
    answer = batch(shared_service, program, [{"nonce": "x" * 2048}] * 600)
    assert problem(answer, 413, "payload_too_large")
    assert problem(batch(shared_service, program, [{}], headers={"X-Pool-Version": "v3"}), 422, "invalid_request")
    assert problem(batch(shared_service, "nobodys", [{}]), 404, "program_not_found")
    assert problem(shared_service.client.get(f"/programs/{program}/batch"), 405, "method_not_allowed")


def test_answers_that_are_too_large_together(shared_service: Service) -> None:
    """The results fill the answer up to its limit, and an item beyond it fails with a problem of its own."""
    program = shared_service.create("big", {"size": "integer"})
    items = items_of(batch(shared_service, program, [{"size": 9 * 1024 * 1024}] * 4 + [{"size": 10}]))
    assert [item.get("code") for item in items] == [None, None, None, "invalid_outputs", None]
    assert "too large together" in items[3]["detail"]


def test_a_batch_leaves_room_for_others(start_service: StartService, version: str, tmp_path: Path) -> None:
    """Two batches have half of the pool together and nothing in its queue; V2 serves others beside them at once."""
    service = start_service(POOL_VERSION=version, V1_POOL_SIZE=4, V2_POOL_SIZE=4, QUEUE_LIMIT=1)
    share = {"v1": 1, "v2": 2}[version]
    program, echo = service.create("hold", HOLD), service.create("echo", ECHO)
    with concurrent.futures.ThreadPoolExecutor(2) as callers:
        batches = [callers.submit(batch, service, program, holds(tmp_path, 6), timeout_s=20) for _ in range(2)]
        wait_until(lambda: busy(service, version) == share, "the share of the batches is in use")
        if version == "v2":
            for _ in range(20):
                assert service.execute(echo, inputs={"nonce": "a"}).status_code == 200
        pool = service.pool(version)
        assert (pool["busy"], pool["queue_depth"]) == (share, 0)
        assert begun(tmp_path) <= share
        (tmp_path / "go").touch()
        for one in batches:
            assert [item["outputs"]["result"] for item in items_of(one.result())] == [f"item{n:02}" for n in range(6)]


def test_batches_take_turns(shared_service: Service) -> None:
    """A small batch does not wait until a large one is over: about as many items of each begin meanwhile."""
    outputs = [{"name": name, "type": "number"} for name in ("began", "ended")]
    program = shared_service.create("interval", {"seconds": "number"}, outputs=outputs)
    with concurrent.futures.ThreadPoolExecutor(1) as callers:
        call = callers.submit(batch, shared_service, program, [{"seconds": 0.01}] * 300)
        wait_until(lambda: shared_service.client.get(f"/programs/{program}").json()["execution_count"] > 0, "it runs")
        small = [item["outputs"]["began"] for item in items_of(batch(shared_service, program, [{"seconds": 0.01}] * 4))]
        large = [item["outputs"]["began"] for item in items_of(call.result())]
    assert max(small) < max(large)
    assert sum(min(small) < began < max(small) for began in large) <= 2 * len(small)


def test_a_client_that_leaves_ends_its_batch(start_service: StartService, version: str, tmp_path: Path) -> None:
    """The items that run lose their workers, the others never begin, and the places are free again."""
    service = start_service(POOL_VERSION=version)
    program = service.create("hold", HOLD)
    with httpx.Client(base_url=service.url) as leaving, concurrent.futures.ThreadPoolExecutor(1) as callers:
        call = callers.submit(leaving.post, f"/programs/{program}/batch", json={"inputs": holds(tmp_path, 5)})
        wait_until(lambda: begun(tmp_path) == 1, "an item runs")
        for connection in _sockets_of(leaving):
            connection.shutdown(2)
        with pytest.raises(httpx.TransportError):
            call.result()
    wait_until(lambda: exits(service, version, "cancelled") == 1, "its worker is killed")
    (tmp_path / "go").touch()
    again = tmp_path / "again"
    again.mkdir()
    (again / "go").touch()
    assert len(items_of(batch(service, program, holds(again, 3)))) == 3
    assert begun(tmp_path) == 1
    assert service.metric("http_requests_total", handler="/programs/{program_id}/batch", status="5xx") == 0


def _sockets_of(client: httpx.Client) -> list[Any]:
    """The sockets of a client's connections."""
    pool = client._transport._pool  # type: ignore[attr-defined]
    return [connection._connection._network_stream.get_extra_info("socket") for connection in pool.connections]


def test_a_rollback_moves_the_rest(start_service: StartService, tmp_path: Path) -> None:
    """The items that begin after a rollback run on V1; the one that ran ends on V2."""
    service = start_service(CANARY_PERCENT=100, V1_POOL_SIZE=1, V2_POOL_SIZE=1)
    program = service.create("hold", HOLD)
    with concurrent.futures.ThreadPoolExecutor(1) as callers:
        call = callers.submit(batch, service, program, holds(tmp_path, 5))
        wait_until(lambda: begun(tmp_path) == 1, "an item runs on V2")
        assert service.client.post("/rollout/rollback").status_code == 200
        (tmp_path / "go").touch()
        items = items_of(call.result())
    assert [item["pool_version"] for item in items] == ["v2", "v1", "v1", "v1", "v1"]
    assert service.pool("v2")["totals"]["dispatched"] == 1


def test_a_drain_ends_a_batch_in_order(start_service: StartService, version: str, tmp_path: Path) -> None:
    """After SIGTERM the item that runs has its result, and the rest say that the pool is closed."""
    service = start_service(POOL_VERSION=version, V1_POOL_SIZE=1, V2_POOL_SIZE=1)
    program = service.create("hold", HOLD)
    with concurrent.futures.ThreadPoolExecutor(1) as callers:
        call = callers.submit(batch, service, program, holds(tmp_path, 3))
        wait_until(lambda: begun(tmp_path) == 1, "an item runs")
        assert service.process is not None
        os.kill(service.process.pid, signal.SIGTERM)
        wait_until(lambda: "draining" in service.log(), "the drain has begun")
        (tmp_path / "go").touch()
        items = items_of(call.result())
        assert service.wait_for_end() == 0
    assert [item.get("code") for item in items] == [None, "pool_closed", "pool_closed"]
    assert [item["retry_safe"] for item in items[1:]] == [True, True]


def test_each_item_has_its_own_deadline(shared_service: Service) -> None:
    """An item's time begins when the item does, so a batch may take longer than its `timeout_s`."""
    program = shared_service.create("sleep", {"seconds": "number"}, "number")
    items = items_of(batch(shared_service, program, [{"seconds": 0.4}] * 4 + [{"seconds": 30}], timeout_s=0.9))
    assert [item.get("code") for item in items] == [None, None, None, None, "execution_timeout"]
