"""Ramps one of the migrations of this folder with generated traffic, and shows what the judge says.

    python examples/migrations/run.py code

A migration is a folder: `migration.yaml` says what V1 and V2 are and which programs there are, `plan.yaml` how the ramp
goes, and `traffic.py` has the calls. The service runs on a free port, with everything it writes in a folder under
`.cache/migrations`, and ends with the ramp. The exit status is 0 if the ramp ends as `migration.yaml` expects.
"""

import argparse
import contextlib
import itertools
import json
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import yaml

HERE = Path(__file__).resolve().parent
CLIENTS = 8
START_TIMEOUT_S = 60.0
RAMP_TIMEOUT_S = 600.0
DECISION_TIMEOUT_S = 5.0
POLL_S = 0.5
ENDS = ("promoted", "rolled_back", "aborted", "paused")

Calls = Callable[[int], tuple[str, dict[str, Any]]]


class Failed(Exception):
    """A migration that cannot be run. The message is what the user sees."""


def main() -> int:
    """Runs the migration that the command line names."""
    parser = argparse.ArgumentParser(description="Ramps an example of a migration, and shows what the judge says.")
    parser.add_argument("name", choices=sorted(path.parent.name for path in HERE.glob("*/migration.yaml")))
    parser.add_argument("--work", type=Path, default=Path(".cache/migrations"), help="folder for environments and data")
    arguments = parser.parse_args()
    try:
        return 0 if run(HERE / arguments.name, arguments.work.absolute() / arguments.name) else 1
    except Failed as error:
        print(f"{arguments.name}: {error}", file=sys.stderr)
        return 2


def run(folder: Path, work: Path) -> bool:
    """Ramps a migration; True if it ends as expected."""
    migration = yaml.safe_load((folder / "migration.yaml").read_text())
    work.mkdir(parents=True, exist_ok=True)
    print(migration["says"])
    settings = {"ENGINE": "session_pool_v2", "POOL_SIZE": "2", **migration.get("settings", {})}
    for version in ("v1", "v2"):
        settings |= _pool_settings(version, migration[version], folder, work)
    with _service(settings, work) as client:
        for program in migration["programs"]:
            _expect(client.put(f"/programs/{program['id']}", json=program))
        for program in migration.get("v2_programs", []):
            _expect(client.put(f"/programs/{program['id']}", params={"pool_version": "v2"}, json=program))
        if "v2_lm" in migration:
            _expect(client.put("/lm", params={"pool_version": "v2"}, json=migration["v2_lm"]))
        print(f"V2 changes: {client.get('/pools/diff').json()['summary']}")
        calls: Calls = runpy.run_path(str(folder / "traffic.py"))["call"]
        with _Traffic(client.base_url, calls, migration.get("clients", CLIENTS)):
            state = _ramp(client, yaml.safe_load((folder / "plan.yaml").read_text()))
        _show_verdict(client, state)
    expected = migration["expect"]
    print(f"The ramp ended {state}; expected was {expected}.")
    return bool(state == expected)


def _pool_settings(version: str, pool: dict[str, Any], folder: Path, work: Path) -> dict[str, str]:
    """The environment variables of one pool."""
    prefix = version.upper()
    settings = {f"{prefix}_{name}": str(value) for name, value in pool.get("settings", {}).items()}
    if "programs" in pool:
        settings[f"{prefix}_PROGRAMS_DIR"] = str(folder / pool["programs"])
    if "requirements" in pool:
        settings[f"{prefix}_PYTHON"] = str(_environment(work / f"env-{version}", pool))
    return settings


def _environment(place: Path, pool: dict[str, Any]) -> Path:
    """Makes a virtual environment, unless it is there, and returns its interpreter."""
    python = place / "bin" / "python"
    wanted = json.dumps(pool, sort_keys=True)
    stamp = place / "made-of.json"
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    base = _interpreter(pool["python"]) if "python" in pool else sys.executable
    if base is None:
        raise Failed(f"this machine has no Python {pool['python']}")
    print(f"Making an environment: {base} with {', '.join(pool['requirements'])}")
    shutil.rmtree(place, ignore_errors=True)
    for command in (
        [base, "-m", "venv", str(place)],
        [str(python), "-m", "pip", "install", "-q", *pool["requirements"]],
    ):
        made = subprocess.run(command, check=False, capture_output=True, text=True)
        if made.returncode:
            raise Failed(f"{' '.join(command)}: {(made.stderr or made.stdout).strip()}")
    stamp.write_text(wanted)
    return python


def _interpreter(version: str) -> str | None:
    """A Python of this version: the one that runs this, the system's, or one that pyenv has."""
    if sys.version.startswith(f"{version}."):
        return sys.executable
    built = sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python{version}"))
    return str(built[-1]) if built else shutil.which(f"python{version}", path="/usr/local/bin:/usr/bin")


@contextlib.contextmanager
def _service(settings: dict[str, str], work: Path) -> Iterator[httpx.Client]:
    """Runs `poolshift serve` with these settings and a new database, until the end of the block."""
    for old in work.glob("poolshift.db*"):
        old.unlink()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {"PATH": os.environ["PATH"], "HOME": str(work), "PORT": str(port), **settings}
    command = [str(Path(sys.executable).with_name("poolshift")), "serve"]
    with (work / "service.log").open("w") as log:
        process = subprocess.Popen(command, cwd=work, env=environment, stdout=log, stderr=log)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            _wait_until_ready(client, process, work / "service.log")
            yield client
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def _wait_until_ready(client: httpx.Client, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if all(client.get("/readyz").json()["pools"].values()):
                return
        time.sleep(POLL_S)
    raise Failed(f"the service did not get ready:\n{log.read_text()[-2000:]}")


def _expect(answer: httpx.Response) -> None:
    if answer.is_error:
        raise Failed(answer.json()["detail"])


class _Traffic:
    """Clients that send calls, one after another each, until the end of the block."""

    def __init__(self, url: httpx.URL, calls: Calls, clients: int) -> None:
        self._url = url
        self._calls = calls
        self._numbers = itertools.count()
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._send) for _ in range(clients)]

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def _send(self) -> None:
        with httpx.Client(base_url=self._url, timeout=120) as client:
            while not self._is_over.is_set():
                program, inputs = self._calls(next(self._numbers))
                client.post(f"/programs/{program}/execute", json={"inputs": inputs})


def _ramp(client: httpx.Client, plan: dict[str, Any]) -> str:
    """Carries the plan out, with a line for each change of its state; returns the last one."""
    _expect(client.put("/rollout/plan", json=plan))
    _expect(client.post("/rollout/start", json={"reason": "an example"}))
    told, end = None, time.monotonic() + RAMP_TIMEOUT_S
    while time.monotonic() < end:
        status = client.get("/rollout/status").json()
        line = f"{status['state']}, step {status['step']}, V2 {status['canary_percent']:g} %: {status['reason']}"
        if line.partition(":")[0] != told:
            told = line.partition(":")[0]
            print(line, flush=True)
        if status["state"] in ENDS:
            return str(status["state"])
        time.sleep(POLL_S)
    return "unfinished"


def _examples(client: httpx.Client) -> list[dict[str, Any]]:
    """The executions of the newest decision that has some: a rollback comes first, and is written down after it."""
    end = time.monotonic() + DECISION_TIMEOUT_S
    while time.monotonic() < end:
        for decision in client.get("/rollout/decisions", params={"limit": 20}).json()["items"]:
            if examples := decision["evidence"].get("examples"):
                return list(examples[:3])
        time.sleep(POLL_S)
    return []


def _show_verdict(client: httpx.Client, state: str) -> None:
    """Prints the evidence by guardrail, and the examples of the one that decided."""
    for row in client.get("/rollout/analysis").json():
        v1, v2 = row["v1"], row["v2"]
        counts = f"V1 {v1['faults']} of {v1['calls']}, V2 {v2['faults']} of {v2['calls']}"
        print(
            f"  {row['name']:<9} {counts:<36} evidence {row['log_e']:6.2f} of {row['threshold']:.2f}  {row['stratum']}"
        )
    for example in [] if state == "promoted" else _examples(client):
        print(f"  example: {example['code']}: {example.get('detail')} (execution {example['execution_id']})")


if __name__ == "__main__":
    sys.exit(main())
