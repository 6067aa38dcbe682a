"""Pools that differ in their Python, their packages, their programs and their environment."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import StartService
from tests.support.interpreters import interpreter, other_interpreter, virtual_environment
from tests.support.ramps import Traffic, begin, status
from tests.support.replicas import COUNT, said_by_each
from tests.support.service import Service, not_on_async_pool, running_service
from tests.support.waiting import wait_until

POOLS = ("v1", "v2")
UNPROVEN = {"unproven": True, "reason": "a test"}
OLD_SIX, NEW_SIX = "six==1.16.0", "six==1.17.0"
SHOP = """
import os
import sys

import six

import prices

def facts() -> dict[str, str]:
    return {
        "python": sys.version.split()[0],
        "six": six.__version__,
        "price": prices.PRICE,
        "flag": os.environ.get("FLAG", ""),
        "prefix": sys.prefix,
    }

def files() -> list[str]:
    return sorted(filter(None, (getattr(module, "__file__", None) for module in list(sys.modules.values()))))
"""

pytestmark = pytest.mark.skipif(bool(os.environ.get("POOL_VERSION") == "v1"), reason="is about both versions at once")


class Checkouts:
    """Two environments and two checkouts of the same programs."""

    def __init__(self, folder: Path) -> None:
        self.pythons = {
            "v1": virtual_environment(folder / "old", sys.executable, "msgspec>=0.22", OLD_SIX),
            "v2": virtual_environment(folder / "new", other_interpreter(), "msgspec>=0.22", NEW_SIX),
        }
        self.programs: dict[str, Path] = {}
        for version in POOLS:
            self.programs[version] = folder / f"programs-{version}"
            self.programs[version].mkdir()
            (self.programs[version] / "shop.py").write_text(SHOP)
            (self.programs[version] / "prices.py").write_text(f"PRICE = 'of {version}'\n")
            (folder / f"{version}.env").write_text(f"FLAG=flag of {version}\n")
        self.folder = folder

    def settings(self, *versions: str) -> dict[str, Any]:
        """The settings of these pools; a pool that is not named has the first one's."""
        found: dict[str, Any] = {"PROGRAM_MODULES": "shop", "ENGINE": "session_pool_v2"}
        for version in POOLS:
            taken = version if version in versions else versions[0]
            found[f"{version.upper()}_PYTHON"] = self.pythons[taken]
            found[f"{version.upper()}_PROGRAMS_DIR"] = self.programs[taken]
            found[f"{version.upper()}_WORKER_ENV_FILE"] = self.folder / f"{taken}.env"
        return found


@pytest.fixture(scope="module")
def checkouts(tmp_path_factory: pytest.TempPathFactory) -> Checkouts:
    """The environments, made once."""
    return Checkouts(tmp_path_factory.mktemp("checkouts"))


@pytest.fixture(scope="module")
def service(checkouts: Checkouts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service whose pools differ in everything but the engine."""
    with running_service(tmp_path_factory.mktemp("service"), **checkouts.settings(*POOLS)) as service:
        wait_until(lambda: service.pool("v2")["ready"], "V2 is ready too")
        yield service


def create(service: Service, function: str) -> str:
    answer = service.client.post("/programs", json={"program_type": "python", "entrypoint": f"shop:{function}"})
    assert answer.status_code == 201, answer.text
    program_id: str = answer.json()["id"]
    return program_id


def result(service: Service, program: str, version: str) -> Any:
    answer = service.execute(program, headers={"x-pool-version": version})
    assert answer.status_code == 200, answer.text
    return answer.json()["outputs"]["result"]


def test_each_pool_runs_its_own(service: Service, checkouts: Checkouts) -> None:
    """Python, packages, modules and variables, from one program."""
    program = create(service, "facts")
    answers = {version: result(service, program, version) for version in POOLS}
    for version, six in (("v1", "1.16.0"), ("v2", "1.17.0")):
        assert answers[version]["six"] == six
        assert answers[version]["price"] == f"of {version}"
        assert answers[version]["flag"] == f"flag of {version}"
        assert answers[version]["prefix"] == str(checkouts.pythons[version].parents[1])
        assert answers[version]["python"] == service.pool(version)["python"]


def test_nothing_of_one_pool_is_in_the_other(service: Service, checkouts: Checkouts) -> None:
    """No file that a worker has imported lies in the other pool's environment or checkout."""
    program = create(service, "files")
    files = {version: result(service, program, version) for version in POOLS}
    for version, other in (POOLS, POOLS[::-1]):
        own, foreign = checkouts.programs[version], checkouts.programs[other]
        assert str(own / "shop.py") in files[version]
        assert not [name for name in files[version] if name.startswith(str(foreign))]
        assert not [name for name in files[version] if name.startswith(str(checkouts.pythons[other].parents[1]))]


@not_on_async_pool("the engine is part of the difference")
def test_the_difference_is_told(service: Service) -> None:
    """By the API, and by a line at the start."""
    shown = service.client.get("/pools/diff").json()
    changes = {change["what"]: change for change in shown["changes"]}
    assert {"what": "six", "v1": "1.16.0", "v2": "1.17.0"} in shown["packages"]
    assert {"interpreter", "programs_dir", "worker_env_file", "programs at"} <= set(changes)
    assert "engine" not in changes
    assert "six 1.16.0 → 1.17.0" in shown["summary"]
    v1, v2 = service.pool("v1"), service.pool("v2")
    if v1["python"] != v2["python"]:
        assert shown["summary"].startswith(f"python {v1['python']} → {v2['python']}; ")
    assert v1["packages"]["six"] == "1.16.0"
    assert changes["programs at"]["v2"] == v2["programs_revision"]
    wait_until(lambda: "V2 against V1" in service.log(), "the log has the difference")
    assert "six 1.16.0 → 1.17.0" in service.log()


def _hides(tmp_path: Path) -> str:
    return str(tmp_path / "nothing")


def _not_executable(tmp_path: Path) -> str:
    (tmp_path / "plain").write_text("no program")
    return str(tmp_path / "plain")


def _foreign_machine(tmp_path: Path) -> str:
    """An ELF header for a processor that nobody has."""
    header = bytearray(Path(sys.executable).resolve().read_bytes()[:4096])
    header[18:20] = b"\xfe\xfe"
    (tmp_path / "foreign").write_bytes(header)
    (tmp_path / "foreign").chmod(0o755)
    return str(tmp_path / "foreign")


def _without_msgspec(tmp_path: Path) -> str:
    return str(virtual_environment(tmp_path / "bare", sys.executable))


def _old_msgspec(tmp_path: Path) -> str:
    """An environment with a package of that name, and an old version."""
    python = virtual_environment(tmp_path / "aged", sys.executable)
    packages = next((tmp_path / "aged" / "lib").glob("python*")) / "site-packages"
    (packages / "msgspec.py").write_text("__version__ = '0.18.6'\n")
    return str(python)


def _dead_at_start(tmp_path: Path) -> str:
    """An environment whose Python ends before it runs anything."""
    python = virtual_environment(tmp_path / "dead", sys.executable)
    packages = next((tmp_path / "dead" / "lib").glob("python*")) / "site-packages"
    (packages / "dies.pth").write_text("import os; os._exit(7)\n")
    return str(python)


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (_hides, "is not there"),
        (_not_executable, "is not executable"),
        (_foreign_machine, "Exec format error"),
        (_without_msgspec, "it has no msgspec: "),
        (_old_msgspec, "its msgspec is 0.18.6: "),
        (_dead_at_start, "it ends with status 7"),
    ],
)
def test_an_unfit_interpreter_of_v2_hurts_nobody(
    start_service: StartService, tmp_path: Path, make: Any, fault: str
) -> None:
    """V1 serves, V2's share comes to V1 without an error, and the reason is shown; as V1's it ends the start."""
    python = make(tmp_path)
    service = start_service(V2_PYTHON=python, CANARY_PERCENT=100)
    program = service.create("echo", {"nonce": "string"}, idempotent=True)
    answer = service.execute(program, inputs={"nonce": "four"})
    assert (answer.status_code, answer.json()["outputs"]) == (200, {"result": "four"})
    assert answer.headers["x-pool-version"] == "v1"
    compared = service.client.post(f"/shadow/{program}/compare", json={"inputs": {"nonce": "four"}})
    assert compared.status_code == 422
    assert fault in compared.json()["detail"]
    ready = service.client.get("/readyz").json()
    assert ready["ready"] is True
    assert ready["pools"] == {"v1": True, "v2": False}
    v2 = service.pool("v2")
    assert fault in v2["fault"]
    assert python in v2["fault"]
    assert f"{python} (V2_PYTHON)" in v2["fault"]
    first = [lines[0] for lines in said_by_each(service.log(), "could not be started")]
    assert all(f"count={2 // COUNT}" in line for line in first)  # all workers of it
    assert v2["python"] is None
    assert "its share goes to V1" in service.log()
    if "msgspec" in fault:
        assert f"{python} -m pip install 'msgspec>=0.22'" in v2["fault"]
    refused = Service(tmp_path, V1_PYTHON=python)
    try:
        refused.start(wait=False)
        assert refused.wait_for_end() != 0
        assert fault in refused.log()
        assert f"{python} (V1_PYTHON)" in refused.log()
    finally:
        refused.close()


def test_programs_that_disappear(start_service: StartService, checkouts: Checkouts, tmp_path: Path) -> None:
    """V2's workers go on with what they have loaded; a reload is refused, with the folder's name."""
    settings = checkouts.settings("v1")
    moved = tmp_path / "programs"
    moved.mkdir()
    for file in checkouts.programs["v2"].glob("*.py"):
        (moved / file.name).write_text(file.read_text())
    service = start_service(**settings | {"V2_PROGRAMS_DIR": moved})
    program = create(service, "facts")
    assert result(service, program, "v2")["price"] == "of v2"
    for _ in range(8):
        result(service, program, "v2")  # every worker has loaded it
    moved.rename(tmp_path / "gone")
    assert result(service, program, "v2")["price"] == "of v2"
    refused = service.client.post("/pools/v2/reload")
    assert refused.json()["code"] == "load_failed"
    assert f"{moved}, is not there" in refused.json()["detail"]
    assert result(service, program, "v2")["price"] == "of v2"
    assert result(service, program, "v1")["price"] == "of v1"


def test_workers_that_die_without_their_programs_take_nobody_along(
    start_service: StartService, checkouts: Checkouts, tmp_path: Path
) -> None:
    """New workers of V2 could load nothing, so V2 has none until they are there again, and V1 gets its share."""
    folder = tmp_path / "programs"
    folder.symlink_to(checkouts.programs["v2"])
    service = start_service(**checkouts.settings("v1") | {"V2_PROGRAMS_DIR": folder, "CANARY_PERCENT": 100})
    program = create(service, "facts")
    assert service.execute(program).headers["x-pool-version"] == "v2"
    folder.unlink()
    for worker in service.pool("v2")["workers"]:
        os.kill(worker["pid"], signal.SIGKILL)
    wait_until(lambda: not service.pool("v2")["workers"], "the deaths of V2's workers are noticed")
    fault = f"the folder of the programs, {folder}, is not there"
    wait_until(lambda: service.pool("v2")["fault"] == fault, "V2 cannot start a worker")
    answers = [service.execute(program) for _ in range(20)]
    assert {(answer.status_code, answer.headers["x-pool-version"]) for answer in answers} == {(200, "v1")}
    assert service.client.get("/readyz").json()["pools"] == {"v1": True, "v2": False}
    assert service.pool("v2")["fault"] == fault
    folder.symlink_to(checkouts.programs["v2"])
    wait_until(lambda: service.execute(program).headers["x-pool-version"] == "v2", "V2 serves again", 30)


def test_a_rotation_loses_nothing(start_service: StartService, checkouts: Checkouts) -> None:
    """Under load: V1 has V2's specification, the split is at 0 %, sessions stay, and a restart keeps it.

    The same rotation once more, as after a lost answer, changes nothing, and does not drop the way back.
    """
    service = start_service(**checkouts.settings(*POOLS), ROTATE_MIN_CALLS=10)
    wait_until(lambda: service.pool("v2")["ready"], "V2 is ready too")
    program = create(service, "facts")
    body = {"program_type": "python", "entrypoint": "shop:facts", "id": "own", "session_id": "customer"}
    assert service.client.post("/programs", json=body).status_code == 201
    service.client.patch("/rollout", json={"canary_percent": 50})
    refused = service.client.post("/rollout/rotate")
    assert (refused.status_code, refused.json()["code"]) == (409, "plan_conflict")
    service.client.patch("/rollout", json={"canary_percent": 100})
    with _Load(service, program) as load:
        load.wait_for(20)
        rotated = service.client.post("/rollout/rotate", json={"reason": "the new one is the old one now"}).json()
        assert (rotated["canary_percent"], rotated["source"]) == (0, "rotation")
        assert "six 1.16.0 → 1.17.0" in rotated["reason"]
        load.wait_for(20)
        service.client.patch("/rollout", json={"canary_percent": 100})
        again = service.client.post("/rollout/rotate")
        assert (again.status_code, again.json()["code"]) == (409, "plan_conflict")
        assert "V1 is what V2 is already" in again.json()["detail"]
        load.wait_for(20)
    assert not load.failures
    assert load.prices == {"of v2"}
    assert service.execute("own", session_id="customer").json()["outputs"]["result"]["price"] == "of v2"
    assert service.client.get("/pools/diff").json()["summary"] == "nothing"
    history = service.client.get("/rollout/history").json()["items"]
    assert [one["source"] for one in history].count("rotation") == 1
    assert service.stop() == 0
    service.start()
    assert service.pool("v1")["interpreter"] == str(checkouts.pythons["v2"])
    assert "V1 has the specification that a rotation gave it" in service.log()
    assert result(service, program, "v1")["price"] == "of v2"
    assert service.stop() == 0
    service._settings["V1_POOL_SIZE"] = "3"
    service.start()
    assert service.pool("v1")["interpreter"] == str(checkouts.pythons["v2"])
    assert len(service.pool("v1")["workers"]) == 3


def test_a_rotation_that_cannot_start_changes_nothing(
    start_service: StartService, checkouts: Checkouts, tmp_path: Path
) -> None:
    """V2's folder is gone: its workers live, and no new pool could."""
    moved = tmp_path / "programs"
    moved.symlink_to(checkouts.programs["v2"])
    service = start_service(**checkouts.settings("v1") | {"V2_PROGRAMS_DIR": moved})
    program = create(service, "facts")
    service.client.patch("/rollout", json={"canary_percent": 100})
    assert service.execute(program).headers["x-pool-version"] == "v2"
    moved.unlink()
    refused = service.client.post("/rollout/rotate", json=UNPROVEN)
    assert refused.json()["code"] == "load_failed"
    assert "V1 keeps its specification" in refused.json()["detail"]
    assert service.client.get("/rollout").json()["canary_percent"] == 100
    assert service.execute(program).headers["x-pool-version"] == "v2"
    assert result(service, program, "v1")["price"] == "of v1"


def test_a_rotation_gives_v1_nothing_that_v2_has_not_tried(
    start_service: StartService, checkouts: Checkouts, tmp_path: Path
) -> None:
    """Code or variables that have changed since V2 started are refused; after a reload the code is V2's, too."""
    programs, variables = tmp_path / "programs", tmp_path / "v2.env"
    programs.mkdir()
    for file in checkouts.programs["v2"].glob("*.py"):
        (programs / file.name).write_text(file.read_text())
    variables.write_text("FLAG=tried\n")
    own = {"V2_PROGRAMS_DIR": programs, "V2_WORKER_ENV_FILE": variables}
    service = start_service(**checkouts.settings("v1") | own)
    program = create(service, "facts")
    service.client.patch("/rollout", json={"canary_percent": 100})
    variables.write_text("FLAG=untried\n")
    refused = service.client.post("/rollout/rotate", json=UNPROVEN)
    assert refused.json()["code"] == "plan_conflict"
    assert f"{variables} has other variables than V2 was started with" in refused.json()["detail"]
    variables.unlink()
    refused = service.client.post("/rollout/rotate", json=UNPROVEN)
    assert refused.json()["code"] == "load_failed"
    assert str(variables) in refused.json()["detail"]
    variables.write_text("FLAG=tried\n")
    (programs / "prices.py").write_text("PRICE = 'untried'\n")
    refused = service.client.post("/rollout/rotate", json=UNPROVEN)
    assert (refused.status_code, refused.json()["code"]) == (409, "code_outdated")
    assert result(service, program, "v1")["price"] == "of v1"
    assert service.client.get("/rollout").json()["canary_percent"] == 100
    assert service.client.post("/pools/v2/reload").is_success
    assert service.client.post("/rollout/rotate", json=UNPROVEN).status_code == 200
    assert [result(service, program, version)["price"] for version in POOLS] == ["untried", "untried"]


class _Load:
    """Calls from two threads, for as long as the block lasts."""

    def __init__(self, service: Service, program: str) -> None:
        self._service = service
        self._program = program
        self._ends = threading.Event()
        self._count = 0
        self.failures: list[str] = []
        self.prices: set[str] = set()
        self._threads = [threading.Thread(target=self._call) for _ in range(2)]

    def __enter__(self) -> "_Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, calls: int) -> None:
        """Waits until so many more calls have been answered."""
        wanted = self._count + calls
        wait_until(lambda: self._count >= wanted, f"{calls} more calls")

    def _call(self) -> None:
        with httpx.Client(base_url=self._service.url, timeout=30) as client:
            while not self._ends.is_set():
                answer = client.post(f"/programs/{self._program}/execute", json={"inputs": {}})
                if answer.status_code == 200:
                    self.prices.add(answer.json()["outputs"]["result"]["price"])
                else:
                    self.failures.append(answer.text)
                self._count += 1


def test_a_foreign_poolshift_is_not_used(start_service: StartService, tmp_path: Path) -> None:
    """The interpreter has another version of it: workers run the service's own."""
    python = virtual_environment(tmp_path / "own", interpreter("3.10") or sys.executable, "msgspec>=0.22")
    packages = next((tmp_path / "own" / "lib").glob("python*")) / "site-packages"
    (packages / "poolshift").mkdir()
    (packages / "poolshift" / "__init__.py").write_text("raise RuntimeError('the wrong one')\n")
    service = start_service(V2_PYTHON=python)
    program = service.create("echo", {"nonce": "string"})
    answer = service.execute(program, inputs={"nonce": "four"}, headers={"x-pool-version": "v2"})
    assert answer.json()["outputs"] == {"result": "four"}


def test_a_ramp_onto_a_pool_that_cannot_start_is_paused(start_service: StartService, tmp_path: Path) -> None:
    """V1 has all calls then, which says nothing of V2's speed, nor that the split is wrong."""
    service = start_service(ENGINE="session_pool_v2", V2_PYTHON=_hides(tmp_path))
    program = service.create("fails_by_environment", {"call": "integer"}, output="integer", idempotent=True)
    with Traffic([service], program) as traffic:
        begin(service)
        traffic.wait_for(1000)
        wait_until(lambda: status(service)["state"] == "paused", "the ramp is paused", 30)
    assert status(service)["reason"] == "V2 has no live worker: its share of the calls goes to V1"
    assert {(version, code) for _, _, version, code in traffic.answers} == {("v1", None)}
    assert {one["verdict"] for one in service.client.get("/rollout/decisions").json()["items"]} <= {"continue"}
