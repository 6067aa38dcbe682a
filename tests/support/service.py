"""`poolshift serve` in a process of its own, as an operator would run it."""

import fcntl
import os
import signal
import socket
import subprocess
import sys
import termios
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support import preloaded
from tests.support.database import copy_migrated
from tests.support.documented import check_answer
from tests.support.preloaded import PreloadedStart
from tests.support.waiting import DEADLINE_S, wait_until

ROOT = Path(__file__).parents[2]
POOLSHIFT = [str(Path(sys.executable).with_name("poolshift"))]
COVERAGE = {name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")}
"""The settings by which a process that is started is measured, too (`make coverage`)."""

ON_RAY = {
    "V2_WORKERS": "ray",
    "RAY_ADDRESS": os.environ.get("SUITE_RAY_ADDRESS", ""),
    "RAY_CPUS_PER_WORKER": "0",  # as many services as there are tests at once
}
"""The settings of services whose V2 is on a Ray cluster, if the suite runs so (tests/ray/suite.py)."""

PROGRAM_MODULES = "examples,tests.support.programs,poolshift.validation"

REPLICAS = {"WEB_CONCURRENCY": os.environ["WEB_CONCURRENCY"]} if "WEB_CONCURRENCY" in os.environ else {}
"""Has every service run so many replicas (`make test-replicas`)."""
ENGINE = {"V2_ENGINE": os.environ["V2_ENGINE"]} if "V2_ENGINE" in os.environ else {}
"""Has every service run V2 on this engine (`make test-engine`)."""


def not_on_async_pool(reason: str) -> pytest.MarkDecorator:
    """Marks a test that is not of the engine `async_pool`, and says why."""
    return pytest.mark.skipif(ENGINE.get("V2_ENGINE") == "async_pool", reason=reason)


SEES_OPEN_FILES = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root sees the open files of a service, which hides them from its own user"
)
"""For a test that counts them."""


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class Service:
    """A service and what a test asks of it. Its settings are the environment's of a fresh machine, and `settings`."""

    def __init__(self, directory: Path, **settings: Any) -> None:
        """`command` and `user` are no settings: by which command the service is started, and as which user.

        Without them it is forked from a process that has its modules imported, unless a setting may count before that.
        """
        self._command: Sequence[str] | None = settings.pop("command", None)
        self._user: int | None = settings.pop("user", None)
        self.directory = directory
        self.port = settings.get("PORT") or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log_path = directory / "service.log"
        self._settings = {name: str(value) for name, value in settings.items()}
        self.process: subprocess.Popen[bytes] | PreloadedStart | None = None
        hooks = {"response": [check_answer]}
        # To read whom TLS trusts takes 10 ms, and the service has none.
        self.client = httpx.Client(base_url=self.url, timeout=DEADLINE_S, event_hooks=hooks, verify=False)

    # --- its life

    def start(self, *, wait: bool = True, terminal: int | None = None) -> None:
        """Starts it and, unless told otherwise, waits until it is ready. `terminal` is its controlling terminal."""
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.directory),
            "PYTHONPATH": str(ROOT),
            "PORT": str(self.port),
            "PROGRAM_MODULES": PROGRAM_MODULES,
            "V1_POOL_SIZE": "2",
            "V2_POOL_SIZE": "2",
            "CHECKOUT_TIMEOUT_S": "60",  # on a busy machine calls wait long; a test of that wait has its own
            **(ON_RAY if ON_RAY["RAY_ADDRESS"] else {}),
            **REPLICAS,
            **ENGINE,
            **self._settings,
            **COVERAGE,
        }
        with self.log_path.open("ab") as log:
            if self._can_be_forked() and terminal is None:
                if wait:  # else it may be refused, and has to leave nothing
                    self._have_database()
                with Path(os.devnull).open("rb") as nothing:
                    streams = nothing.fileno(), log.fileno(), log.fileno()
                    self.process = preloaded.start(["serve"], self.directory, environment, *streams)
            else:
                self.process = self._execute_command(environment, log.fileno(), terminal)
        if wait:
            wait_until(self.is_ready, f"the service is ready; its log:\n{self.log()}")

    def _have_database(self) -> None:
        path = self.directory / "poolshift.db"
        if "DATABASE_URL" not in self._settings and not path.exists():
            copy_migrated(path)

    def _can_be_forked(self) -> bool:
        """Tells if it makes no difference that its modules were imported in another process."""
        return self._command is None and self._user is None and preloaded.can_run(self._settings)

    def _execute_command(
        self, environment: Mapping[str, str], log: int, terminal: int | None
    ) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [*(self._command or POOLSHIFT), "serve"],
            cwd=self.directory,
            env=environment,
            stdout=log,
            stderr=log,
            user=self._user,
            start_new_session=True,
            # No lock is taken between fork and exec: two system calls are all that it does.
            preexec_fn=None if terminal is None else lambda: _take_terminal(terminal),  # noqa: PLW1509
        )

    def is_ready(self) -> bool:
        """Asks `/readyz`. Fails the test if the process has ended."""
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"the service ended with {self.process.returncode}:\n{self.log()}")
        return says_ready(self.client)

    def stop(self, number: signal.Signals = signal.SIGTERM, timeout_s: float = DEADLINE_S) -> int:
        """Ends it and returns its exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(timeout_s)

    def wait_for_end(self) -> int:
        """Waits until it has ended, and returns its exit code."""
        assert self.process is not None
        return self.process.wait(DEADLINE_S)

    def close(self) -> None:
        """Ends it whatever it does."""
        self.client.close()
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def log(self) -> str:
        """Returns everything that it has logged."""
        return self.log_path.read_text() if self.log_path.exists() else ""

    # --- what is asked of it

    def create(self, function: str, inputs: dict[str, str], output: str = "string", **more: Any) -> str:
        """A program on a function of `tests.support.programs`, or on `module:function`; its output is `result`."""
        entrypoint = function if ":" in function else f"tests.support.programs:{function}"
        fields = [{"name": name, "type": kind} for name, kind in inputs.items()]
        outputs = more.pop("outputs", [{"name": "result", "type": output}])
        body = {
            "program_type": "python",
            "entrypoint": entrypoint,
            "signature": {"inputs": fields, "outputs": outputs},
            **more,
        }
        answer = self.client.post("/programs", json=body)
        assert answer.status_code == 201, answer.text
        program_id: str = answer.json()["id"]
        return program_id

    def execute(self, program_id: str, headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
        """Runs a program; `inputs` are none unless given."""
        return self.client.post(f"/programs/{program_id}/execute", json={"inputs": {}, **body}, headers=headers)

    def pool(self, version: str) -> dict[str, Any]:
        """Returns the view of `/pools/{version}`."""
        answer = self.client.get(f"/pools/{version}")
        assert answer.status_code == 200, answer.text
        pool: dict[str, Any] = answer.json()
        return pool

    def worker_pids(self) -> list[int]:
        """Every worker of both pools."""
        return [worker["pid"] for pool in self.client.get("/pools").json() for worker in pool["workers"]]

    def metric(self, name: str, **labels: str) -> float:
        """The sum over all samples of `name` that have these labels."""
        return sum(self.samples(name, **labels))

    def samples(self, name: str, **labels: str) -> list[float]:
        """All samples of `name` that have these labels, those of each replica too."""
        text = self.client.get("/metrics").text
        return [
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]


@contextmanager
def running_service(directory: Path, **settings: Any) -> Iterator[Service]:
    """A service that is ready, for as long as the block lasts."""
    service = Service(directory, **settings)
    try:
        service.start()
        yield service
    finally:
        service.close()


def says_ready(client: httpx.Client) -> bool:
    """Tells if a service answers there and says that it can serve."""
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


def _take_terminal(terminal: int) -> None:
    """Makes it this process's own, and lets its end be heard of: nohup(1) may have ignored that for the whole suite."""
    fcntl.ioctl(terminal, termios.TIOCSCTTY)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def is_alive(pid: int) -> bool:
    """Tells if a process exists and is not a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"
