"""A program loads before its time counts: slow imports, failing ones, classes with `setup()`, and `PRELOAD`."""

import os
import re
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import StartService
from tests.service.test_faults import whole
from tests.support.service import Service
from tests.support.user_code import UserCode
from tests.support.waiting import wait_until

SLOW = """
import time
time.sleep(3)

def answer():
    return 42
"""
MOODY = """
import pathlib, time
if pathlib.Path(FOLDER, "hang").exists():
    time.sleep(600)
if pathlib.Path(FOLDER, "broken").exists():
    raise RuntimeError("no weights")

def answer():
    return 42
"""
MODEL = """
import os, pathlib

def note(text):
    with open(pathlib.Path(FOLDER, "notes"), "a") as notes:
        notes.write(text + "\\n")

class Model:
    def setup(self):
        if pathlib.Path(FOLDER, "broken").exists():
            raise RuntimeError("no weights")
        self.calls = 0
        note(f"setup {os.getpid()}")

    def __call__(self, step):
        self.calls += step
        return self.calls

    def teardown(self):
        note(f"teardown {os.getpid()}")
        if pathlib.Path(FOLDER, "stuck").exists():
            raise RuntimeError("the lock is taken")

class Progress:
    async def setup(self):
        self.first = 1

    def __call__(self, count):
        yield from range(self.first, count)
        return count

class Silent:
    pass

def wanted(x):
    return x
"""
WHO = """
import os
IMPORTED_BY = os.getpid()

def who():
    return [IMPORTED_BY, os.getpid()]
"""

HEAVY = """
import dspy, numpy, pandas

def mean(values):
    return pandas.Series(numpy.asarray(values)).mean()
"""


@pytest.fixture
def code(tmp_path: Path) -> UserCode:
    """An empty folder of modules."""
    return UserCode(tmp_path / "code")


@pytest.fixture
def start_one_worker(start_service: StartService, code: UserCode, version: str) -> StartService:
    """Starts services with the code, on one version, whose pools have one worker each."""

    def start(**settings: Any) -> Service:
        more = {**code.settings, **settings}
        return start_service(POOL_VERSION=version, V1_POOL_SIZE=1, V2_POOL_SIZE=1, **more)

    return start


def timings(header: str) -> dict[str, float]:
    """The durations of a Server-Timing header, in milliseconds."""
    return {name: float(duration) for name, duration in re.findall(r"(\w+);dur=([\d.]+)", header)}


def test_loading_is_no_part_of_a_calls_time(start_one_worker: StartService, code: UserCode) -> None:
    """An import of 3 s is served although the call has 2 s, and the answer says how long it took."""
    code.write(SLOW)
    service = start_one_worker()
    program = service.create("shop:answer", {}, "integer")
    first = service.execute(program, timeout_s=2)
    assert first.status_code == 200, first.text
    spent = timings(first.headers["server-timing"])
    assert spent["load"] >= 3000
    assert spent["run"] < 2000
    second = service.execute(program, timeout_s=2)
    assert "load" not in timings(second.headers["server-timing"])


def test_a_module_that_hangs_has_a_limit_of_its_own(start_one_worker: StartService, code: UserCode) -> None:
    """The call is 504 `load_timeout`, its worker is replaced, and the next call is served once the module loads."""
    code.write(MOODY)
    service = start_one_worker(LOAD_TIMEOUT_S=1, EXECUTION_TIMEOUT_S=60)
    program = service.create("shop:answer", {}, "integer")
    code.touch("hang")
    answer = service.execute(program)
    assert (answer.status_code, answer.json()["code"]) == (504, "load_timeout")
    assert answer.json()["retry_safe"] is True
    assert "1 s" in answer.json()["detail"]
    refused = service.client.post(
        "/programs",
        json={
            "program_type": "python",
            "entrypoint": "shop:answer",
            "signature": {"inputs": [], "outputs": [{"name": "result", "type": "integer"}]},
        },
    )
    assert refused.status_code == 422
    assert "takes more than 1 s" in refused.json()["detail"]
    code.remove("hang")
    assert service.execute(program).json()["outputs"] == {"result": 42}


def test_a_module_that_raises_is_told_and_tried_again(start_one_worker: StartService, code: UserCode) -> None:
    """The call is 500 `load_failed` with the reason, the worker lives on, and loads the module once it can."""
    code.write(MOODY)
    service = start_one_worker()
    program = service.create("shop:answer", {}, "integer")
    workers = service.worker_pids()
    code.touch("broken")
    for _ in range(3):
        answer = service.execute(program)
        assert (answer.status_code, answer.json()["code"]) == (500, "load_failed")
        assert "no weights" in answer.json()["detail"]
        assert answer.json()["retry_safe"] is True
    assert "RuntimeError: no weights" in service.log()
    code.remove("broken")
    assert service.execute(program).json()["outputs"] == {"result": 42}
    assert service.worker_pids() == workers


def test_a_class_is_made_once_in_a_worker(start_one_worker: StartService, code: UserCode, version: str) -> None:
    """`setup()` runs before the first call, the instance lives on between calls, `teardown()` at the orderly end.

    The log names the program whose teardown fails.
    """
    code.write(MODEL)
    service = start_one_worker()
    program = service.create("shop:Model", {"step": "integer"}, "integer")
    assert [service.execute(program, inputs={"step": 2}).json()["outputs"]["result"] for _ in range(3)] == [2, 4, 6]
    (pid,) = [worker["pid"] for worker in service.pool(version)["workers"]]
    assert code.lines("notes") == [f"setup {pid}"]
    code.touch("stuck")
    assert service.stop() == 0
    wait_until(lambda: code.lines("notes") == [f"setup {pid}", f"teardown {pid}"], "it is torn down")
    (told,) = [line for line in service.log().splitlines() if "the lock is taken" in line]
    assert "teardown() of shop:Model failed: RuntimeError" in told
    assert program in told


def test_a_class_may_stream_and_set_up_asynchronously(start_one_worker: StartService, code: UserCode) -> None:
    """`__call__` may be a generator, and `setup` a coroutine."""
    code.write(MODEL)
    service = start_one_worker()
    program = service.create("shop:Progress", {"count": "integer"}, "integer")
    answer = service.client.post(
        f"/programs/{program}/execute", json={"inputs": {"count": 3}}, headers={"accept": "text/event-stream"}
    )
    assert [line for line in answer.text.splitlines() if line.startswith("event:")] == [
        "event: progress",
        "event: progress",
        "event: result",
    ]


def test_a_failing_setup_is_the_programs_error(start_one_worker: StartService, code: UserCode) -> None:
    """The call is `load_failed` with the reason, the worker lives on, and the next call sets the class up again."""
    code.write(MODEL)
    service = start_one_worker()
    code.touch("broken")
    program = service.create("shop:Model", {"step": "integer"}, "integer")  # nothing is set up to create a program
    workers = service.worker_pids()
    answer = service.execute(program, inputs={"step": 1})
    assert (answer.status_code, answer.json()["code"]) == (500, "load_failed")
    assert "setup() of Model failed: RuntimeError: no weights" in answer.json()["detail"]
    code.remove("broken")
    assert service.execute(program, inputs={"step": 1}).json()["outputs"] == {"result": 1}
    assert service.worker_pids() == workers


@pytest.mark.parametrize(
    ("entrypoint", "reason"),
    [("shop:Silent", "has no method __call__"), ("shop:Model", "does not take the signature's inputs")],
)
def test_a_class_that_cannot_be_called_so_is_refused(
    start_service: StartService, code: UserCode, entrypoint: str, reason: str
) -> None:
    """Creation says what is missing."""
    code.write(MODEL)
    service = start_service(POOLS="v2", V2_POOL_SIZE=1, **code.settings)
    answer = service.client.post(
        "/programs",
        json={
            "program_type": "python",
            "entrypoint": entrypoint,
            "signature": {
                "inputs": [{"name": "other", "type": "integer"}],
                "outputs": [{"name": "result", "type": "integer"}],
            },
        },
    )
    assert answer.status_code == 422
    assert reason in answer.json()["detail"]


def importers(service: Service, program: str) -> set[tuple[int, int]]:
    """Which process imported the module, and which ran the call, for some calls."""
    return {tuple(service.execute(program).json()["outputs"]["result"]) for _ in range(4)}


def test_preloaded_modules_are_imported_once(start_service: StartService, code: UserCode, version: str) -> None:
    """All workers share what `PRELOAD` names: none of them imports it."""
    code.write(WHO)
    service = start_service(POOL_VERSION=version, PRELOAD="shop", **code.settings)
    program = service.create("shop:who", {}, "array")
    seen = importers(service, program)
    assert len({imported_by for imported_by, _ in seen}) == 1
    assert not {imported_by for imported_by, _ in seen} & {ran_in for _, ran_in in seen}


@pytest.mark.timing
def test_a_preloaded_program_is_warm_at_its_first_call(start_service: StartService, code: UserCode) -> None:
    """The first call on a worker takes less than 50 ms, though dspy, numpy and pandas take seconds to import."""
    for library in ("dspy", "numpy", "pandas"):
        pytest.importorskip(library)
    code.write(HEAVY)
    service = start_service(PRELOAD="dspy,numpy,pandas", WARM_TIMEOUT_S=0, **code.settings)
    program = service.create("shop:mean", {"values": "array"}, "number")
    for version in ("v1", "v2"):
        answer = service.execute(program, {"x-pool-version": version}, inputs={"values": [1, 2]})
        assert answer.json()["outputs"] == {"result": 1.5}
        spent = timings(answer.headers["server-timing"])
        assert spent["load"] > 0  # it was the first
        assert sum(spent.values()) < 50


def test_recent_modules_are_imported_by_the_next_zygote(
    start_one_worker: StartService, code: UserCode, version: str
) -> None:
    """A worker imports a module at its first call; after a reload the workers have it already."""
    code.write(WHO)
    service = start_one_worker()
    program = service.create("shop:who", {}, "array")
    assert all(imported_by == ran_in for imported_by, ran_in in importers(service, program))
    assert service.client.post(f"/pools/{version}/reload").status_code == 200
    assert all(imported_by != ran_in for imported_by, ran_in in importers(service, program))


def test_a_recent_module_that_ends_its_process_keeps_no_zygote_from_its_start(
    start_one_worker: StartService, code: UserCode, version: str
) -> None:
    """A reload is refused; after the zygote's death the next one starts without the module and serves others."""
    code.write(WHO)
    code.write("def fine():\n    return 1\n", "other")
    service = start_one_worker(PROGRAM_MODULES="shop,other")
    program = service.create("shop:who", {}, "array")
    fine = service.create("other:fine", {}, "integer")
    importers(service, program)
    code.write("import os\nos._exit(7)\n")
    refused = service.client.post(f"/pools/{version}/reload")
    assert (refused.status_code, refused.json()["code"]) == (500, "load_failed")
    assert re.search(r"\(it imports shop[,)]", refused.json()["detail"])
    worker = service.pool(version)["workers"][0]["pid"]
    os.kill(psutil.Process(worker).ppid(), signal.SIGKILL)
    wait_until(
        lambda: worker not in service.worker_pids() and whole(service, version),
        "the worker of another zygote is there",
    )
    assert service.execute(fine).json()["outputs"] == {"result": 1}
    assert service.execute(program).json()["code"] == "worker_crashed"


@pytest.mark.parametrize(
    ("module", "says"),
    [
        ("shpo", "'shpo' cannot be imported: ModuleNotFoundError: No module named 'shpo'"),
        ("ends", "the zygote died at its start (it imports shop, ends)"),
        ("hangs", "'hangs' cannot be imported: TimeoutError: the import takes more than 1 s"),
    ],
)
def test_a_module_that_cannot_be_preloaded_ends_the_start(
    tmp_path: Path, code: UserCode, module: str, says: str
) -> None:
    """One line says which module, and why."""
    code.write(WHO)
    code.write("import os\nos._exit(3)\n", "ends")
    code.write("import time\ntime.sleep(600)\n", "hangs")
    service = Service(tmp_path, PRELOAD=f"shop,{module}", LOAD_TIMEOUT_S=1, **code.settings)
    try:
        service.start(wait=False)
        assert service.wait_for_end() != 0
        line = [line for line in service.log().splitlines() if "PRELOAD" in line][-1]
        assert says in line
        assert "Traceback" not in service.log()
    finally:
        service.close()
