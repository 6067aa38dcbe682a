"""The contenders, each with the command that starts it for a workload and a number of workers."""

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from bench.peers import environment as peer
from bench.servers import ContenderFailed, Server
from bench.workloads import Workload
from common import own_process
from config.settings import Settings


@dataclass(frozen=True)
class Contender(ABC):
    """A way to serve a program."""

    name: str

    @property
    def is_installed(self) -> bool:
        """Tells if the contender is installed here."""
        return True

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
    """The share of the workers: 1 or 0 leave one worker to the version that is not asked."""
    settings: Mapping[str, str] = field(default_factory=dict)
    is_observed: bool = True
    collector_url: str | None = None
    """The collector of the traces; without it there are none."""

    def server(self, workload: Workload, workers: int, directory: Path, port: int) -> Server:
        v1_workers = max(1, round(workers * self.v1_share))
        v2_workers = max(1, workers - round(workers * self.v1_share))
        variables = {
            **_environment(),
            "HOST": "127.0.0.1",
            "PORT": str(port),
            "PROGRAM_MODULES": "bench.programs",
            "DATABASE_URL": f"sqlite+aiosqlite:///{directory / 'bench.db'}",
            "LOG_FORMAT": "json",
            "LM_MODEL": "none",
            "CANARY_PERCENT": f"{100 * (1 - self.v1_share):g}",
            "V1_POOL_SIZE": str(v1_workers),
            "V2_POOL_SIZE": str(v2_workers),
            "WEB_CONCURRENCY": "1",
            **self._tracing(),
            **self.settings,
        }
        poolshift = str(Path(sys.executable).with_name("poolshift"))
        command = [poolshift, "serve"] if self.is_observed else own_process.command("bench.unobserved")
        path = f"/programs/{workload.definition['id']}/execute"
        return Server(self.name, command, variables, directory, port, path)

    def prepare(self, server: Server, workload: Workload) -> None:
        server.wait_until_ready("/readyz")
        created = server.client.post("/programs", json=workload.definition)
        if created.status_code not in (201, 409):
            raise ContenderFailed(f"{self.name} does not take the program: {created.text[:500]}")
        super().prepare(server, workload)

    def _tracing(self) -> dict[str, str]:
        if not self.is_observed or self.collector_url is None:
            return {"OTEL_SDK_DISABLED": "true"}
        return {
            "OTEL_TRACES_EXPORTER": "otlp",
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.collector_url,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_METRICS_EXPORTER": "none",
            "OTEL_LOGS_EXPORTER": "none",
            "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
            "OTEL_TRACES_SAMPLER_ARG": "0.01",
        }


@dataclass(frozen=True)
class Peer(Contender):
    """A server in `bench.peers`."""

    module: str
    path: str
    package: str
    flags: tuple[str, ...] = ()
    """`{port}` stands for the port."""

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
        command = own_process.command(f"bench.peers.{self.module}", *flags)
        return Server(self.name, command, variables, directory, port, self.path)


MOSEC = Peer(
    name="mosec",
    module="mosec_server",
    path="/inference",
    package="mosec",
    flags=("--address", "127.0.0.1", "--port", "{port}", "--log-level", "error"),
)
LITSERVE = Peer(name="LitServe", module="litserve_server", path="/predict", package="litserve")
EXECUTOR = Peer(name="FastAPI + ProcessPoolExecutor", module="executor_server", path="/execute", package="fastapi")
PEERS = (MOSEC, LITSERVE, EXECUTOR)


def _environment() -> dict[str, str]:
    """This process's, without what would configure a contender behind the bench's back."""
    own = {name.upper() for name in Settings.model_fields}
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in own and not name.startswith(("OTEL_", "BENCH_", "MOSEC_", "LIT_", "LM_", "UVICORN_"))
    }
    return own_process.environment(inherited)  # workers find `bench.programs` there
