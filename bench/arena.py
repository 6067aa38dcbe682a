"""Runs a scenario's servers side by side; they take turns, round by round."""

import contextlib
import itertools
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench import load
from bench.contenders import PEERS, Contender, Peer, Poolshift
from bench.load import Load
from bench.outcome import Loads
from bench.plan import Plan
from bench.servers import Server, free_port
from bench.workloads import Workload

V1, V2 = "Poolshift V1", "Poolshift V2"
ASYNC = "Poolshift V2, async_pool"
UNOBSERVED, UNCOMPILED = "Poolshift V2, unobserved", "Poolshift V2, uncompiled"
RAMP = "Poolshift amid a ramp"
REPLICAS = "Poolshift with 2 replicas"
REPLICAS_IN_RAMP = "Poolshift with 2 replicas amid a ramp"


@dataclass
class Arena:
    """Everything that a scenario needs."""

    plan: Plan
    directory: Path
    collector_url: str
    say: Callable[[str], None]
    """Tells of progress."""
    missing: set[str] = field(default_factory=set)
    """Contenders that did not take part, each with the reason."""
    on: dict[str, str] = field(default_factory=dict)
    """By contender of the scenario, the features that were on."""
    _last_port: int = 0

    def v1(self, **settings: str) -> Poolshift:
        """The service with all traffic on V1."""
        return Poolshift(V1, v1_share=1, settings=settings, collector_url=self.collector_url)

    def v2(self, **settings: str) -> Poolshift:
        """The service with all traffic on V2."""
        return Poolshift(V2, v1_share=0, settings=settings, collector_url=self.collector_url)

    def ramp(self, name: str = RAMP, *, replicas: int = 1) -> Poolshift:
        """The service with half of the traffic on each version, and shadow calls however busy the processors are."""
        settings = {"SHADOW_PERCENT": "1", "SHADOW_MAX_CPU_PERCENT": "100"}
        return Poolshift(name, v1_share=0.5, settings=settings, replicas=replicas, collector_url=self.collector_url)

    def asynchronous(self, concurrency: int) -> Poolshift:
        """V2 on the engine whose workers run so many calls at once each."""
        settings = {"V2_ENGINE": "async_pool", "V2_WORKER_CONCURRENCY": str(concurrency)}
        return Poolshift(ASYNC, v1_share=0, settings=settings, collector_url=self.collector_url)

    def unobserved(self) -> Poolshift:
        """V2 without metrics and traces."""
        return Poolshift(UNOBSERVED, v1_share=0, is_observed=False)

    def uncompiled(self) -> Poolshift:
        """V2 as `make run` starts it."""
        return Poolshift(UNCOMPILED, v1_share=0, is_compiled=False, collector_url=self.collector_url)

    def replicas(self, name: str = REPLICAS, *, count: int = 2) -> Poolshift:
        """V2 with so many replicas."""
        return Poolshift(name, v1_share=0, replicas=count, collector_url=self.collector_url)

    def peers(self, *which: Peer) -> list[Peer]:
        """Lists the installed contenders, of `which` or of all."""
        wanted = which or PEERS
        self.missing |= {f"{one.name}, which is not installed" for one in wanted if not one.is_installed}
        return [one for one in wanted if one.is_installed]

    def file(self, name: str, content: bytes) -> Path:
        """A file for a load generator."""
        path = self.directory / name
        path.write_bytes(content)
        return path

    def body(self, workload: Workload) -> Path:
        """The workload's request as a file."""
        return self.file(f"{workload.function}.json", workload.body)

    @contextlib.contextmanager
    def running(
        self, contenders: Sequence[Contender], workload: Workload, workers: int
    ) -> Iterator[Mapping[str, Server]]:
        """The contenders' servers by name, each ready to run `workload`, until the end of the block."""
        servers: dict[str, Server] = {}
        with contextlib.ExitStack() as stack:
            for one in contenders:  # all start at once
                directory = Path(tempfile.mkdtemp(dir=self.directory))
                self.on[one.name] = one.on
                server = one.server(workload, workers, directory, self._free_port())
                servers[one.name] = stack.enter_context(server)
            for one in contenders:
                one.prepare(servers[one.name], workload)
            yield servers

    def compare(self, contenders: Sequence[Contender], workload: Workload, rounds: int | None = None) -> Loads:
        """Each contender's peak in each round, with the plan's workers and connections."""
        with self.running(contenders, workload, self.plan.workers) as servers:
            return self.compare_running(servers, workload, self.plan.connections, rounds=rounds)

    def compare_running(
        self, servers: Mapping[str, Server], workload: Workload, connections: int, *, rounds: int | None = None
    ) -> Loads:
        """The same for servers that are there already."""
        body = self.body(workload)
        loads = self.alternate(
            servers, lambda server, seconds: load.peak(server, body, connections=connections, seconds=seconds), rounds
        )
        for server in servers.values():
            server.check(workload)
        return loads

    def warm_up(self, servers: Iterable[Server], measure: Callable[[Server, int], Load]) -> None:
        """Loads the servers before they are measured, unless the plan is without that."""
        if self.plan.warm_up_s:
            for server in servers:
                measure(server, self.plan.warm_up_s)

    def alternate(
        self, servers: Mapping[str, Server], measure: Callable[[Server, int], Load], rounds: int | None = None
    ) -> Loads:
        """Warms the servers up and measures each once a round, the first of a round being another each time.

        `measure` takes the seconds that it may last.
        """
        self.warm_up(servers.values(), measure)
        names = list(servers)
        loads: dict[str, list[Load]] = {name: [] for name in names}
        for number in range(rounds or self.plan.rounds):
            first = number % len(names)
            for name in itertools.chain(names[first:], names[:first]):
                seen = measure(servers[name], self.plan.seconds)
                loads[name].append(seen)
                self.say(f"  round {number + 1}: {name}: {seen.rps:,.0f}/s, p99 {seen.p99_ms:.2f} ms")
        return loads

    def _free_port(self) -> int:
        self._last_port = free_port(max(self.plan.first_port, self._last_port + 1))
        return self._last_port


def on_by_title(on: Mapping[str, str], loads: Loads) -> dict[str, str]:
    """Finds the features of each entry of `loads`, whose name may be a contender's with a condition after a comma."""
    names = {title: title if title in on else title.rpartition(", ")[0] for title in loads}
    return {title: on[name] for title, name in names.items() if name in on}
