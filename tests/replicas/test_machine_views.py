"""Asked of one replica, answered for the machine: each of three shows what all three do, and acts for all."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import StartService
from tests.console.support import Keys
from tests.replicas.test_one_machine import one_client_each, replicas_of
from tests.service.test_shadow import create, settings
from tests.support.service import Service, is_alive
from tests.support.user_code import UserCode
from tests.support.waiting import wait_until

COUNT = 3
NONCE = {"nonce": "string"}
HOLD = {"directory": "string", "name": "string"}
VIEWS = (
    "/pools",
    "/pools/v1",
    "/failures",
    "/sessions",
    "/rollout",
    "/rollout/status",
    "/rollout/analysis",
    "/shadow",
    "/migration",
    "/metrics",
    "/console",
    "/console/pools",
    "/console/failures",
)
NAMES_MISSING = ("/pools/v1", "/failures", "/rollout/status", "/shadow", "/migration")
"""The views that name the replicas whose part is missing."""
PROMISED_S = 1.0
"""The time in which a view answers, and a replica that is stopped is called silent."""

Clients = dict[int, httpx.Client]


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    """Closes at the end of the test what it has opened."""
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture
def machine(start_service: StartService) -> Service:
    """Three replicas, each with a worker of either pool."""
    return start_service(WEB_CONCURRENCY=COUNT, V1_POOL_SIZE=COUNT, V2_POOL_SIZE=COUNT)


@pytest.fixture
def clients(machine: Service, stack: contextlib.ExitStack) -> Clients:
    """A connection to each replica, by its process."""
    return one_client_each(machine, stack)


def index_of(service: Service, replica: int) -> int:
    """The number of a replica, by its process."""
    below = {one.pid for one in psutil.Process(replica).children(recursive=True)}
    (found,) = {worker["replica"] for worker in service.pool("v1")["workers"] if worker["pid"] in below}
    assert isinstance(found, int)
    return found


def get(client: httpx.Client, path: str) -> Any:
    answer = client.get(path)
    assert answer.status_code == 200, answer.text
    return answer.json()


def everywhere(clients: Clients, path: str) -> Any:
    """Asks all replicas, which show the same."""
    first, *others = (get(client, path) for client in clients.values())
    assert others == [first] * len(others)
    return first


def run(client: httpx.Client, program: str, status: int = 200, **body: Any) -> dict[str, Any]:
    answer = client.post(f"/programs/{program}/execute", json={"inputs": {"nonce": "a"}, **body})
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.json()
    return found


# --- what the replicas have in memory


def test_pools_are_those_of_the_machine(machine: Service, clients: Clients) -> None:
    """Sizes, workers and counts add up; a worker tells its replica."""
    program = machine.create("echo", NONCE)
    for client in clients.values():
        run(client, program)
    for client in clients.values():
        (v1, v2), alone = get(client, "/pools"), get(client, "/pools/v1")
        assert (v1["size"], v1["wished_size"], v1["idle"], v2["size"]) == (COUNT, COUNT, COUNT, COUNT)
        assert [worker["replica"] for worker in v1["workers"]] == list(range(COUNT))
        assert (v1["totals"]["dispatched"], v2["totals"]["dispatched"]) == (COUNT, 0)
        assert v1["totals"]["worker_starts"] == COUNT
        assert (v1["ready"], v1["fault"], v1["missing_replicas"]) == (True, None, [])
        assert v1["service_time_s"] > 0
        assert {worker["pid"] for worker in alone["workers"]} == {worker["pid"] for worker in v1["workers"]}


def test_failures_are_those_of_the_machine(machine: Service, clients: Clients) -> None:
    """The counts add up, and the newest call comes first, whichever replica had it."""
    program = machine.create("fail", {"message": "string"})
    calls = [run(client, program, 500, inputs={"message": "no"})["execution_id"] for client in clients.values()]
    found = everywhere(clients, "/failures")
    assert [(row["code"], row["v1"], row["v2"]) for row in found["counts"]] == [("program_error", COUNT, 0)]
    assert [one["execution_id"] for one in found["items"]] == calls[::-1]
    assert found["missing_replicas"] == []
    assert len(everywhere(clients, "/failures?limit=2")["items"]) == 2


def test_counts_of_sessions_and_programs_are_there_at_once(machine: Service, clients: Clients) -> None:
    """Also those that another replica has not stored yet."""
    program = machine.create("echo", NONCE)
    for turn in range(1, 4):
        for number, client in enumerate(clients.values()):
            run(client, program, session_id=f"s-{number}")
            run(client, program, session_id="shared")
        shown = everywhere(clients, "/sessions")["items"]
        assert {one["id"]: one["execution_count"] for one in shown} == {
            **{f"s-{number}": turn for number in range(COUNT)},
            "shared": COUNT * turn,
        }
        assert everywhere(clients, f"/programs/{program}")["execution_count"] == 2 * COUNT * turn
        assert everywhere(clients, "/sessions/shared")["execution_count"] == COUNT * turn


def test_a_plan_and_its_moves_are_known_at_once(machine: Service, clients: Clients) -> None:
    """A replica that is asked right after another has moved the ramp shows the move."""
    one, *others = clients.values()
    plan = {"steps": [{"percent": 10, "hold_s": 600}, {"percent": 50, "hold_s": 600}]}
    assert one.put("/rollout/plan", json=plan).status_code == 200
    assert {get(other, "/rollout/plan")["steps"][0]["percent"] for other in others} == {10}
    for verb, state in (("start", "ramping"), ("pause", "paused"), ("resume", "ramping"), ("abort", "aborted")):
        assert one.post(f"/rollout/{verb}").json()["state"] == state
        shown = [get(other, "/rollout/status") for other in others]
        assert {status["state"] for status in shown} == {state}
        assert all(status["in_force"] for status in shown)
        one, others = others[0], [*others[1:], one]
    status = get(one, "/rollout/status")
    assert [row["replica"] for row in status["replicas"]] == list(range(COUNT))
    assert (status["missing_replicas"], status["silent"]) == ([], [])


def test_the_ramps_words_are_those_of_the_leader(machine: Service, clients: Clients) -> None:
    """Each replica says the same of the verdict and of what comes next; the split counts the calls of all."""
    program = machine.create("echo", NONCE)
    plan = {"steps": [{"percent": 50, "hold_s": 0, "min_calls": 10_000}]}
    machine.client.put("/rollout/plan", json=plan).raise_for_status()
    machine.client.post("/rollout/start").raise_for_status()
    for client in clients.values():
        for _ in range(10):
            run(client, program)

    def words() -> set[tuple[str, str]]:
        shown = [get(client, "/rollout/status") for client in clients.values()]
        assert {status["split"]["v1"] + status["split"]["v2"] for status in shown} == {10 * COUNT}
        return {(status["next"], status["verdict"]) for status in shown}

    wait_until(lambda: len(words()) == 1 and "30" in words().pop()[0], "all know that the leader counts all calls")


def test_examples_of_evidence_are_those_of_the_machine(machine: Service, clients: Clients) -> None:
    """Each replica shows some of each. Evidence begins again soon after the change, and first calls are lost."""
    program = machine.create("fail", {"message": "string"})
    machine.client.patch("/rollout", json={"canary_percent": 50}).raise_for_status()
    calls: dict[int, set[str]] = {replica: set() for replica in clients}

    def examples(client: httpx.Client) -> set[str]:
        (row,) = [one for one in get(client, "/rollout/analysis") if one["name"] == "program"]
        return {example["execution_id"] for example in row["examples"]}

    def all_show_all() -> bool:
        for replica, client in clients.items():
            calls[replica].add(run(client, program, 500, inputs={"message": "no"})["execution_id"])
        return all(calls[replica] & examples(client) for replica in clients for client in clients.values())

    wait_until(all_show_all, "each shows examples of each")


def test_shadow_calls_are_those_of_the_machine(
    start_service: StartService, tmp_path: Path, stack: contextlib.ExitStack
) -> None:
    """A comparison counts on each replica as soon as one has made it, and its example is there."""
    sizes = {"WEB_CONCURRENCY": COUNT, "V1_POOL_SIZE": COUNT, "V2_POOL_SIZE": COUNT}
    service = start_service(**settings(tmp_path, **sizes))
    program = create(service, "answer", output="string")
    clients = one_client_each(service, stack)
    for n, client in enumerate(clients.values()):
        run(client, program, inputs={"n": n})
    total = service.metric("poolshift_shadow_calls_total", outcome="shed")

    def compared(client: httpx.Client) -> bool:
        found = client.get(f"/shadow/{program}")
        return found.status_code == 200 and found.json()["compared"] == COUNT - total

    for client in one_client_each(service, stack).values():
        wait_until(partial(compared, client), "all calls are compared")
    shown = [get(client, f"/shadow/{program}") for client in one_client_each(service, stack).values()]
    assert {len(one["examples"]) for one in shown} == {shown[0]["differing"]}
    overall = [get(client, "/shadow") for client in one_client_each(service, stack).values()]
    assert {one["compared"] for one in overall} == {shown[0]["compared"]}
    assert {len(one["examples"]) for one in overall} == {shown[0]["differing"]}


def test_the_use_of_versions_is_that_of_the_machine(machine: Service, clients: Clients) -> None:
    """The calls by day have those that another replica has not stored yet."""
    program = machine.create("echo", NONCE)
    for turn in range(1, 3):
        for client in clients.values():
            run(client, program)
        usage = everywhere(clients, "/migration")["usage"]
        assert sum(day["calls"] for day in usage if day["pool_version"] == "v1") == COUNT * turn


def test_the_console_shows_the_machine(machine: Service, clients: Clients) -> None:
    """Each page has the workers, the failed calls and the calls of all replicas."""
    program = machine.create("fail", {"message": "string"})
    calls = [run(client, program, 500, inputs={"message": "no"})["execution_id"] for client in clients.values()]
    pids = machine.worker_pids()
    for client in clients.values():
        page = client.get("/console/pools").text
        assert all(f'<th scope="row">{pid}</th>' in page for pid in pids)
        page = client.get("/console/failures").text
        assert all(call in page for call in calls)
        assert f">{COUNT}</a>" in page
        assert "Not the whole machine" not in page


# --- metrics


def test_metrics_have_a_replica_each(machine: Service, clients: Clients) -> None:
    """Each family is there once, each series once for each replica, and sums are those of the machine."""
    program = machine.create("echo", NONCE)
    for client in clients.values():
        run(client, program)
    for client in clients.values():
        families = list(text_string_to_metric_families(client.get("/metrics").text))
        names = [family.name for family in families]
        assert len(names) == len(set(names))
        samples = [sample for family in families for sample in family.samples]
        assert {sample.labels["replica"] for sample in samples} == {"0", "1", "2"}
        series = [(sample.name, tuple(sorted(sample.labels.items()))) for sample in samples]
        assert len(series) == len(set(series))
        starts = [sample for sample in samples if sample.name == "process_start_time_seconds"]
        assert [sample.labels["replica"] for sample in starts] == ["0", "1", "2"]
    assert machine.metric("poolshift_requests_total", pool_version="v1", outcome="ok") == COUNT
    assert machine.metric("poolshift_pool_workers", pool_version="v2", state="idle") == COUNT
    assert machine.metric("poolshift_replicas", state="serving") == COUNT
    assert machine.metric("poolshift_replicas") == COUNT
    text = machine.client.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"}).text
    assert text.count("# EOF") == 1
    found = openmetrics_families(text)  # type: ignore[no-untyped-call]
    assert {family.name for family in found} >= {"poolshift_requests", "poolshift_replicas"}


def test_no_counter_falls_but_by_a_restart(machine: Service) -> None:
    """Under load, whoever is asked; a replica that has died begins again with another start."""
    program = machine.create("echo", NONCE)
    seen: dict[tuple[str, float], dict[str, float]] = {}
    stop = threading.Event()

    def call() -> None:
        while not stop.is_set():
            with contextlib.suppress(httpx.TransportError), httpx.Client(base_url=machine.url, timeout=60) as client:
                for _ in range(10):
                    client.post(f"/programs/{program}/execute", json={"inputs": {"nonce": "a"}})

    def look() -> None:
        with httpx.Client(base_url=machine.url, timeout=60) as client:
            families = list(text_string_to_metric_families(client.get("/metrics").text))
        samples = [(family.type, sample) for family in families for sample in family.samples]
        starts = {one.labels["replica"]: one.value for _, one in samples if one.name == "process_start_time_seconds"}
        for kind, sample in samples:
            if kind == "counter":
                of_run = seen.setdefault((sample.labels["replica"], starts[sample.labels["replica"]]), {})
                series = f"{sample.name}{sorted(sample.labels.items())}"
                assert sample.value >= of_run.get(series, 0.0), series
                of_run[series] = sample.value

    with ThreadPoolExecutor() as pool:
        callers = [pool.submit(call) for _ in range(3)]
        try:
            look()
            dead = replicas_of(machine)[1]
            os.kill(dead, signal.SIGKILL)

            def has_seen_the_successor() -> bool:
                with contextlib.suppress(httpx.TransportError):  # the one that dies may be asked
                    look()
                return len(seen) == COUNT + 1

            wait_until(has_seen_the_successor, "the successor's counts are there")
            look()
        finally:
            stop.set()
        for caller in callers:
            caller.result()


# --- who is missing


@pytest.mark.timing
def test_a_stopped_replica_is_named_and_holds_up_nobody(machine: Service, stack: contextlib.ExitStack) -> None:
    """Within a second it is called silent; each view of each other replica answers within a second meanwhile."""
    stopped = replicas_of(machine)[1]
    index = index_of(machine, stopped)
    others = [client for pid, client in one_client_each(machine, stack).items() if pid != stopped]
    for client in others:
        client.get("/pools")
    began = time.monotonic()
    os.kill(stopped, signal.SIGSTOP)
    try:
        for client in others:
            for view in VIEWS:
                asked = time.monotonic()
                assert client.get(view).status_code == 200
                assert time.monotonic() - asked < PROMISED_S, view
        wait_until(lambda: time.monotonic() - began > PROMISED_S, "a second has passed")
        for client in others:
            for view in NAMES_MISSING:
                assert get(client, view)["missing_replicas"] == [f"{index}: silent"], view
            assert f"replica {index}: silent" in client.get("/console").text
            assert f"replica {index}: silent" in client.get("/console/history").text
            status = get(client, "/rollout/status")
            assert not status["in_force"]
            assert [row["replica"] for row in status["replicas"] if row["is_silent"]] == [index]
            assert f'poolshift_replicas{{replica="{index}",state="silent"}} 1.0' in client.get("/metrics").text
            pool = get(client, "/pools/v1")
            assert (pool["size"], {worker["replica"] for worker in pool["workers"]}) == (2, {0, 1, 2} - {index})
    finally:
        os.kill(stopped, signal.SIGCONT)
    wait_until(lambda: get(others[0], "/pools/v1")["missing_replicas"] == [], "it answers again")
    wait_until(lambda: get(others[0], "/rollout/status")["in_force"], "it follows again")


def test_a_dead_replica_is_named_until_another_is_in_its_place(machine: Service, stack: contextlib.ExitStack) -> None:
    """Then the views are whole again, and know nothing of the dead one."""
    dead = replicas_of(machine)[2]
    index = index_of(machine, dead)
    survivor = next(client for pid, client in one_client_each(machine, stack).items() if pid != dead)
    os.kill(dead, signal.SIGKILL)
    reasons: set[str] = set()

    def is_whole() -> bool:
        pool = get(survivor, "/pools/v1")
        reasons.update(pool["missing_replicas"])
        return bool(reasons) and not pool["missing_replicas"]

    wait_until(is_whole, "another is in its place")
    assert reasons <= {f"{index}: {reason}" for reason in ("did not answer", "silent", "gone", "starting")}
    pool = get(survivor, "/pools/v1")
    assert (pool["size"], [worker["replica"] for worker in pool["workers"]]) == (COUNT, [0, 1, 2])
    wait_until(lambda: get(survivor, "/rollout/status")["in_force"], "the newest revision is in force everywhere")
    status = get(survivor, "/rollout/status")
    assert [row["replica"] for row in status["replicas"]] == [0, 1, 2]
    assert machine.metric("poolshift_replicas", state="serving") == COUNT


def test_questions_among_replicas_are_nobody_elses(start_service: StartService, tmp_path: Path) -> None:
    """Without the token their paths are as unknown as any other, with a key and without; no document has them."""
    keys = Keys(tmp_path / "keys.json")
    service = start_service(WEB_CONCURRENCY=2, V1_POOL_SIZE=2, V2_POOL_SIZE=2, API_KEYS_FILE=keys.path)
    for headers in ({}, keys.bearer(), {"x-replica-token": "0" * 32}, {"x-replica-token": ""}):
        for method in ("GET", "POST", "DELETE"):
            found, unknown = (
                service.client.request(method, path, headers=headers) for path in ("/replica/pools", "/nothing/pools")
            )
            assert found.status_code == unknown.status_code == 404
            assert found.json() == {**unknown.json(), "detail": found.json()["detail"]}
            assert found.json()["detail"] == unknown.json()["detail"].replace("/nothing/pools", "/replica/pools")
    assert "/replica" not in service.client.get("/openapi.json", headers=keys.bearer()).text
    service.client.get("/pools", headers=keys.bearer()).raise_for_status()
    assert "/replica" not in service.client.get("/metrics").text


# --- acts


def test_a_reload_is_one_of_all_replicas(
    start_service: StartService, tmp_path: Path, stack: contextlib.ExitStack
) -> None:
    """The answer comes when the workers of each have the new code; a refusal is told with its replica's number."""
    code = UserCode(tmp_path / "code")
    code.write("def first():\n    return 'old'\n")
    service = start_service(WEB_CONCURRENCY=COUNT, V1_POOL_SIZE=COUNT, V2_POOL_SIZE=COUNT, **code.settings)
    service.create("shop:first", {})
    before = revisions(service)
    code.write("def first():\n    return 'new'\n")
    answer = service.client.post("/pools/v2/reload")
    assert answer.status_code == 200, answer.text
    after = revisions(service)
    assert (len(after), after != before) == (1, True)
    assert service.pool("v2")["last_reload"]["by"] == "anonymous"
    dead = replicas_of(service)[0]
    index = index_of(service, dead)
    os.kill(dead, signal.SIGKILL)
    wait_until(lambda: dead not in replicas_of(service) and len(replicas_of(service)) == COUNT, "another is there")
    wait_until(lambda: service.metric("poolshift_replicas", state="serving") == COUNT, "and serves")
    client = next(client for pid, client in one_client_each(service, stack).items() if index_of(service, pid) != index)
    answer = client.post("/pools/v2/reload", json={"previous": True})
    assert (answer.status_code, answer.json()["code"]) == (500, "load_failed"), answer.text
    others = ", ".join(str(one) for one in range(COUNT) if one != index)
    assert f"replica {index}: v2 keeps no code from before a reload" in answer.json()["detail"]
    assert answer.json()["detail"].endswith(f"reloaded: replicas {others}")
    code.write("def first():\n    return 'newest'\n")
    assert service.client.post("/pools/reload", json={"force": True, "reason": "all"}).status_code == 200
    assert len(revisions(service)) == 1


def revisions(service: Service) -> set[str]:
    return {worker["programs_revision"] for worker in service.pool("v2")["workers"]}


@pytest.fixture
def shop(start_service: StartService, tmp_path: Path) -> Service:
    """A program `price` that returns "old" on V1 and "new" on V2. A call of each replica is evidence enough."""
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "shop.py").write_text(f"def price() -> str:\n    return {name!r}\n")
    service = start_service(
        WEB_CONCURRENCY=COUNT,
        V1_POOL_SIZE=COUNT,
        V2_POOL_SIZE=COUNT,
        ROTATE_MIN_CALLS=COUNT,
        PROGRAM_MODULES="shop",
        V1_PROGRAMS_DIR=tmp_path / "old",
        V2_PROGRAMS_DIR=tmp_path / "new",
    )
    service.create("shop:price", {}, id="price")
    return service


def test_a_rotation_is_one_of_all_replicas(shop: Service, stack: contextlib.ExitStack) -> None:
    """After its answer V1 is on each replica what it has become, and after that of the way back what it was.

    Calls that other replicas have just answered are evidence for it.
    """
    clients = one_client_each(shop, stack).values()
    shop.client.patch("/rollout", json={"canary_percent": 100}).raise_for_status()
    assert {run(client, "price", inputs={})["pool_version"] for client in clients} == {"v2"}
    for verb, result in (("rotate", "new"), ("unrotate", "old")):
        answer = shop.client.post(f"/rollout/{verb}")
        assert answer.status_code == 200, answer.text
        assert answer.json()["missing_replicas"] == []
        found = [run(client, "price", inputs={}) for client in clients]
        assert {(one["pool_version"], one["outputs"]["result"]) for one in found} == {("v1", result)}


def test_of_rotations_at_once_on_all_replicas_one_is_made(shop: Service, stack: contextlib.ExitStack) -> None:
    """The others find that V1 is what V2 is, and the way back stays; of as many ways back one is taken."""
    clients = one_client_each(shop, stack).values()
    with ThreadPoolExecutor(COUNT) as callers:
        for verb, body, others in (
            ("rotate", {"unproven": True, "reason": "a test"}, "V1 is what V2 is already"),
            ("unrotate", {}, "was taken back already"),
        ):
            calls = [callers.submit(client.post, f"/rollout/{verb}", json=body) for client in clients]
            answers = sorted((call.result() for call in calls), key=lambda answer: answer.status_code)
            assert [answer.status_code for answer in answers] == [200] + [409] * (COUNT - 1)
            assert all(others in answer.json()["detail"] for answer in answers[1:]), answers[1].text
    sources = [one["source"] for one in shop.client.get("/rollout/history").json()["items"]]
    assert sources.count("rotation") == 2


def test_a_rollback_replays_what_runs_on_any_replica(
    machine: Service, tmp_path: Path, stack: contextlib.ExitStack
) -> None:
    """Calls that run on V2, one on each replica, are answered by V1."""
    program = machine.create("hold", HOLD, idempotent=True)
    machine.client.patch("/rollout", json={"canary_percent": 100}).raise_for_status()
    clients = one_client_each(machine, stack)
    with ThreadPoolExecutor() as callers:
        calls = [
            callers.submit(run, client, program, inputs={"directory": str(tmp_path), "name": f"call-{number}"})
            for number, client in enumerate(clients.values())
        ]
        wait_until(lambda: len(list(tmp_path.glob("call-*"))) == COUNT, "all run on V2")
        answer = machine.client.post("/rollout/rollback", json={"in_flight": "replay"})
        assert answer.json()["missing_replicas"] == []
        wait_until(lambda: len(list(tmp_path.glob("call-*"))) == 2 * COUNT, "all run again")
        (tmp_path / "go").touch()
        assert {call.result()["pool_version"] for call in calls} == {"v1"}


def test_a_job_is_cancelled_wherever_it_runs(machine: Service, tmp_path: Path, clients: Clients) -> None:
    """The answer has its end, and its program is dead; so it is with the end of its session."""
    program = machine.create("hold", HOLD)
    one, *others = clients.values()
    for name, other in (("a", others[0]), ("b", others[1])):
        place = _started(one, program, tmp_path, name)
        assert other.delete(place).json()["status"] == "cancelled"
        wait_until(lambda name=name: not is_alive(_pid(tmp_path, name)), "its program is dead")  # type: ignore[misc]
    _started(one, program, tmp_path, "c", session_id="s")
    assert others[0].delete("/sessions/s").status_code == 204
    wait_until(lambda: not is_alive(_pid(tmp_path, "c")), "the job of the session is dead")


def _started(client: httpx.Client, program: str, directory: Path, name: str, **body: Any) -> str:
    answer = client.post(
        f"/programs/{program}/execute",
        json={"inputs": {"directory": str(directory), "name": name}, **body},
        headers={"prefer": "respond-async"},
    )
    assert answer.status_code == 202, answer.text
    wait_until(lambda: any(directory.glob(f"{name}.*")), f"{name} runs")
    return str(answer.headers["location"])


def _pid(directory: Path, name: str) -> int:
    return int(next(directory.glob(f"{name}.*")).suffix[1:])


def test_v2s_share_rises_once_all_are_warm(
    start_service: StartService, tmp_path: Path, stack: contextlib.ExitStack
) -> None:
    """A program that takes a moment to load is loaded on each replica before V2 gets calls."""
    code = UserCode(tmp_path / "code")
    code.write(
        "import time\n\nclass Slow:\n    def setup(self):\n        time.sleep(0.5)\n"
        "        self.loaded = time.monotonic()\n    def __call__(self):\n        return self.loaded\n"
    )
    service = start_service(WEB_CONCURRENCY=COUNT, V1_POOL_SIZE=COUNT, V2_POOL_SIZE=COUNT, **code.settings)
    program = service.create("shop:Slow", {}, "number")
    for client in one_client_each(service, stack).values():
        run(client, program, inputs={})
    service.client.patch("/rollout", json={"canary_percent": 100}).raise_for_status()
    answered = time.monotonic()
    for client in one_client_each(service, stack).values():
        found = run(client, program, inputs={})
        assert (found["pool_version"], found["outputs"]["result"] < answered) == ("v2", True)
