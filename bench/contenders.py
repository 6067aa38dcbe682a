"""The contenders, each with the command that starts it for a workload and a number of workers."""

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path

from bench.peers import environment as peer
from bench.servers import ContenderFailed, Server
from bench.source import command, folder_of_sources
from bench.workloads import Workload
from common import own_process
from config.settings import Settings

_ALL = 100
_TRACED = 0.01
"""The share of calls that Poolshift traces."""


@dataclass(frozen=True)
class Contender(ABC):
    """A way to serve a program."""

    name: str

    @property
    def is_installed(self) -> bool:
        """Tells if the contender is installed here."""
        return True

    @property
    @abstractmethod
    def on(self) -> str:
        """Lists the features that are on while the contender is measured."""

    @abstractmethod
    def server(self, workload: Workload, workers: int, directory: Path, port: int) -> Server:
        """A server for `workload` that is yet to be started."""

    def prepare(self, server: Server, workload: Workload) -> None:
        """Makes a started server able to run the workload; returns when it has done so once, rightly."""
        server.wait_until_right(workload)


@dataclass(frozen=True)
class Poolshift(Contender):
    """The service itself, with everything on unless `settings` say otherwise."""

    v1_share: float
    """The share of the workers: 1 or 0 leave one worker for each replica to the version that is not asked."""
    settings: Mapping[str, str] = field(default_factory=dict)
    replicas: int = 1
    is_observed: bool = True
    is_compiled: bool = True
    """False for the sources; if nothing is compiled here, that is no difference."""
    collector_url: str | None = None
    """The collector of the traces; without it there are none."""

    @property
    def on(self) -> str:
        percent = float(self.settings.get("CANARY_PERCENT", self._canary_percent))
        judge = "judge" if 0 < percent < _ALL else "no judge"
        shadow = f"{float(self.settings.get('SHADOW_PERCENT', 0)):g} % shadow"
        traces = f"{_ALL * _TRACED:g} % traces" if self._is_traced else "no traces"
        metrics = "metrics" if self.is_observed else "no metrics"
        return f"{percent:g} % on V2, {judge}, {shadow}, {traces}, {metrics}"

    @property
    def _canary_percent(self) -> str:
        return f"{_ALL * (1 - self.v1_share):g}"

    @property
    def _is_traced(self) -> bool:
        return self.is_observed and self.collector_url is not None

    def server(self, workload: Workload, workers: int, directory: Path, port: int) -> Server:
        v1_workers = round(workers * self.v1_share)
        v2_workers = workers - v1_workers
        variables = {
            **_environment(),
            "HOST": "127.0.0.1",
            "PORT": str(port),
            "PROGRAM_MODULES": "bench.programs",
            "DATABASE_URL": f"sqlite+aiosqlite:///{directory / 'bench.db'}",
            "LOG_FORMAT": "json",
            "LM_MODEL": "none",
            "CANARY_PERCENT": self._canary_percent,
            "V1_POOL_SIZE": str(max(self.replicas, v1_workers)),
            "V2_POOL_SIZE": str(max(self.replicas, v2_workers)),
            "WEB_CONCURRENCY": str(self.replicas),
            **self._tracing(),
            **self.settings,
        }
        if not self.is_compiled:
            variables["PYTHONPATH"] = str(folder_of_sources(directory))
        path = f"/programs/{workload.definition['id']}/execute"
        return Server(self.name, self._command(), variables, directory, port, path)

    def prepare(self, server: Server, workload: Workload) -> None:
        server.wait_until_ready("/readyz")
        created = server.client.post("/programs", json=workload.definition)
        if created.status_code not in (201, 409):
            raise ContenderFailed(f"{self.name} does not take the program: {created.text[:500]}")
        super().prepare(server, workload)

    def _command(self) -> list[str]:
        if not self.is_compiled:
            return command("serve")
        if not self.is_observed:
            return own_process.command("bench.unobserved")
        return [str(Path(sys.executable).with_name("poolshift")), "serve"]

    def _tracing(self) -> dict[str, str]:
        if not self._is_traced or self.collector_url is None:
            return {"OTEL_SDK_DISABLED": "true"}
        return {
            "OTEL_TRACES_EXPORTER": "otlp",
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.collector_url,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_METRICS_EXPORTER": "none",
            "OTEL_LOGS_EXPORTER": "none",
            "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
            "OTEL_TRACES_SAMPLER_ARG": str(_TRACED),
        }


@dataclass(frozen=True)
class Peer(Contender):
    """A server in `bench.peers`."""

    module: str
    path: str
    package: str
    flags: tuple[str, ...] = ()
    """`{port}` stands for the port."""
    features: str = "program in worker processes"
    """The features that are on. No peer has versions, a judge or shadow calls, and none traces."""

    @property
    def on(self) -> str:
        return self.features

    @property
    def is_installed(self) -> bool:
        return find_spec(self.package) is not None

    def server(self, workload: Workload, workers: int, directory: Path, port: int) -> Server:
        variables = {
            **_environment(),
            peer.ENTRYPOINT: workload.entrypoint,
            peer.WORKERS: str(workers),
            peer.PORT: str(port),
        }
        flags = [flag.format(port=port) for flag in self.flags]
        started = own_process.command(f"bench.peers.{self.module}", *flags)
        return Server(self.name, started, variables, directory, port, self.path)


MOSEC = Peer(
    name="mosec",
    module="mosec_server",
    path="/inference",
    package="mosec",
    flags=("--address", "127.0.0.1", "--port", "{port}", "--log-level", "error"),
    features="program in worker processes, metrics",
)
MOSEC_MSGSPEC = replace(MOSEC, name="mosec with msgspec", module="mosec_msgspec_server")
MOSECS = (MOSEC, MOSEC_MSGSPEC)
"""A goal against mosec is one against the better of them in the same run."""
LITSERVE = Peer(name="LitServe", module="litserve_server", path="/predict", package="litserve")
LITSERVE_ASYNC = replace(LITSERVE, name="LitServe, async", module="litserve_async_server")
EXECUTOR = Peer(name="FastAPI + ProcessPoolExecutor", module="executor_server", path="/execute", package="fastapi")
IN_PROCESS = Peer(
    name="FastAPI, program in the process",
    module="in_process_server",
    path="/execute",
    package="fastapi",
    features="nothing, and no isolation: as many uvicorn workers as a pool has",
)
PEERS = (*MOSECS, LITSERVE, EXECUTOR, IN_PROCESS)


def _environment() -> dict[str, str]:
    """This process's, without what would configure a contender behind the bench's back."""
    own = {name.upper() for name in Settings.model_fields}
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in own and not name.startswith(("OTEL_", "BENCH_", "MOSEC_", "LIT_", "LM_", "UVICORN_"))
    }
    return own_process.environment(inherited)  # workers find `bench.programs` there
