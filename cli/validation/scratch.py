"""A service beside the one that is validated, with the same pools: what could hurt is tried there."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0
PROGRAMS = "poolshift.validation"
_POLL_S = 0.1
_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "PYTHONPATH", "LD_LIBRARY_PATH", "TMPDIR")


class NoScratch(Exception):
    """A service with these pools cannot be started here. The message says why."""


@dataclass(frozen=True, slots=True)
class Scratch:
    """The scratch service."""

    url: str
    pid: int
    process: subprocess.Popen[bytes]

    def client(self, timeout_s: float = 60.0) -> httpx.Client:
        """Opens a client."""
        return httpx.Client(base_url=self.url, timeout=timeout_s)

    def stop(self) -> int:
        """Ends the service, drained, and returns its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_TIMEOUT_S)


@contextlib.contextmanager
def scratch_service(pools: list[dict[str, Any]], **settings: str) -> Iterator[Scratch]:
    """Runs a service with these pools (views of `GET /pools`) until the end of the block, however that comes.

    Raises:
        NoScratch: an interpreter or a folder of the pools is not on this machine, or the service did not get ready.
    """
    with tempfile.TemporaryDirectory(prefix="poolshift-validation-") as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        environment = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        environment |= {"PORT": str(port), "PROGRAM_MODULES": PROGRAMS, "LM_MODEL": "none", **_pool_settings(pools)}
        log = Path(folder, "service.log")
        process = _start(environment | settings, folder, log)
        try:
            yield _ready(process, port, log)
        finally:
            _end(process)


def _pool_settings(pools: list[dict[str, Any]]) -> dict[str, str]:
    """The settings that make these pools again."""
    settings = {"POOLS": ",".join(sorted(pool["pool_version"] for pool in pools))}
    for pool in pools:
        prefix = pool["pool_version"].upper()
        values = {
            "ENGINE": pool["engine"],
            "POOL_SIZE": pool["size"],
            "PYTHON": pool["interpreter"],
            "PROGRAMS_DIR": pool["programs_dir"],
            "WORKER_ENV_FILE": pool["worker_env_file"],
            "PRELOAD": ",".join(pool["preload"]),
        }
        for name in ("PYTHON", "PROGRAMS_DIR", "WORKER_ENV_FILE"):
            if values[name] and os.sep in values[name] and not Path(values[name]).exists():
                raise NoScratch(f"{values[name]} of {pool['pool_version']} is not on this machine")
        settings |= {f"{prefix}_{name}": str(value) for name, value in values.items() if value}
    return settings


def _start(environment: dict[str, str], folder: str, log: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-P", "-c", "from _poolshift_service import main; main()", "serve"]
    with log.open("wb") as output:
        return subprocess.Popen(  # noqa: S603
            command, cwd=folder, env=environment, stdout=output, stderr=output, start_new_session=True
        )


def _ready(process: subprocess.Popen[bytes], port: int, log: Path) -> Scratch:
    url = f"http://127.0.0.1:{port}"
    end = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if all(httpx.get(f"{url}/readyz").json()["pools"].values()):
                return Scratch(url, process.pid, process)
        time.sleep(_POLL_S)
    lines = log.read_text(errors="replace").strip().splitlines()
    raise NoScratch(f"a service with these pools does not get ready: {lines[-1] if lines else 'no output'}")


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
