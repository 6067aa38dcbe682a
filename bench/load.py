"""The load generators, both in C: wrk for as much as a server can take, h2load for a constant rate and for a count."""

import json
import math
import resource
import shutil
import statistics
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from bench.servers import ProcessorTime, Server

_SCRIPT = Path(__file__).with_name("wrk.lua")
_STAGGER_MS = 5
"""Time between the openings of two connections; h2load takes whole milliseconds."""
_RATE_STEP = 1000 // _STAGGER_MS
_MIN_INTERVAL_S = 0.011
"""The interval of one connection's requests. h2load's clock ticks every 10 ms: requests due sooner come in bursts."""


class MissingTool(Exception):
    """A load generator is not installed; the message says how to get it."""


class GeneratorFailed(Exception):
    """A load generator did not do what it was told, though the server is there."""


@dataclass(frozen=True, slots=True)
class Load:
    """The measurements of one run of a generator."""

    requests: int
    seconds: float
    failed: int
    """Answers that were not 2xx, and requests that got none."""
    p50_ms: float
    p99_ms: float
    server_cpu_us: float
    """The processor time of all the server's processes, per request."""
    generator_cpu: float
    """The share of a core that the generator used: near 1 it was the bottleneck."""
    supervisor_cpu_us: float = 0.0
    """The part of `server_cpu_us` that the process took which only watches replicas."""
    replicas_cpu_us: tuple[float, ...] = ()
    """The part of each replica, or of the server's own process if it is the only one. The rest is the workers'."""

    @property
    def rps(self) -> float:
        """Good answers per second."""
        return (self.requests - self.failed) / self.seconds


def require_tools() -> None:
    """Raises MissingTool."""
    missing = [tool for tool in ("wrk", "h2load") if shutil.which(tool) is None]
    if missing:
        raise MissingTool(
            f"{' and '.join(missing)} not found: install wrk and nghttp2-client "
            "(Debian, Ubuntu: apt-get install wrk nghttp2-client; macOS: brew install wrk nghttp2)"
        )


def peak(server: Server, body: Path, *, connections: int, seconds: float) -> Load:
    """As many requests as the server answers, each connection sending the next when it has its answer."""
    url = server.url(server.path)
    return _wrk(server, [url, "--", str(body)], connections=connections, seconds=seconds)


def peak_of_lines(server: Server, lines: Path, *, connections: int, seconds: float) -> Load:
    """The same with requests that differ, from a file with a path, a tab and a body in each line."""
    return _wrk(server, [server.url("/"), "--", str(lines), "lines"], connections=connections, seconds=seconds)


def _wrk(server: Server, rest: Sequence[str], *, connections: int, seconds: float) -> Load:
    whole_seconds = max(1, round(seconds))
    command = ["wrk", "-t1", f"-c{connections}", f"-d{whole_seconds}s", "--timeout", "30s", "-s", str(_SCRIPT), *rest]
    usage = _Usage(server)
    printed = _run(server, command, whole_seconds)
    costs = usage.since()
    seen = json.loads(printed.splitlines()[-1])
    return Load(
        requests=seen["requests"],
        seconds=seen["us"] / 1e6,
        failed=seen["status"] + seen["socket"],
        p50_ms=seen["p50_us"] / 1000,
        p99_ms=seen["p99_us"] / 1000,
        **costs.per_request(seen["requests"]),
    )


def at_rate(server: Server, body: Path, *, rate: int, seconds: float) -> Load:
    """`rate` requests per second, one that `even_rate` gives, whatever the server makes of them.

    They come as evenly as h2load can: it looks at its clock every millisecond, and sends what has fallen due in it.
    Each connection has intervals of its own; all would begin together, in one burst, so they are opened one after
    another, and what is sent before the last is open or after the first is done does not count.
    """
    connections = connections_for(rate)
    log = server.directory / "h2load.tsv"
    log.unlink(missing_ok=True)
    interval_s = connections / rate
    opening_s = connections * _STAGGER_MS / 1000
    per_connection = round((opening_s + seconds) / interval_s)
    command = [
        *_h2load(body, connections, count=per_connection * connections),
        *("-r", "1", f"--rate-period={_STAGGER_MS}ms", f"--rps={1 / interval_s!r}", f"--log-file={log}"),
        server.url(server.path),
    ]
    usage = _Usage(server)
    _run(server, command, 2 * opening_s + seconds)
    costs = usage.since()
    rows = [tuple(map(int, line.split("\t")[:3])) for line in log.read_text().splitlines()]
    first = min(row[0] for row in rows)
    begin, end = first + opening_s * 1e6, first + (per_connection - 1) * interval_s * 1e6
    counted = [(status, taken) for started, status, taken in rows if begin <= started < end]
    taken_ms = [taken / 1000 for _, taken in counted]
    return Load(
        requests=len(counted),
        seconds=(end - begin) / 1e6,
        failed=sum(not 200 <= status < 300 for status, _ in counted),
        p50_ms=statistics.median(taken_ms),
        p99_ms=statistics.quantiles(taken_ms, n=100)[98],
        **costs.per_request(len(rows)),
    )


def even_rate(rate: float) -> int:
    """The nearest rate, in requests per second, at which the same number falls due between any two openings."""
    return max(1, round(rate / _RATE_STEP)) * _RATE_STEP


def connections_for(rate: int) -> int:
    """As few as the clocks allow for, and no divisor in common with what falls due between two openings.

    So no two connections have the same moment; with a divisor in common they would share fewer, in bursts.
    """
    connections = math.ceil(rate * _MIN_INTERVAL_S)
    while math.gcd(connections, rate // _RATE_STEP) > 1:
        connections += 1
    return connections


def count(server: Server, body: Path, *, requests: int, connections: int, deadline_s: float) -> int:
    """Exactly so many requests, as fast as they are answered; how many were not answered well."""
    printed = _run(server, [*_h2load(body, connections, count=requests), server.url(server.path)], deadline_s)
    codes = next(line for line in printed.splitlines() if line.startswith("status codes:"))
    return requests - int(codes.split()[2])


def _h2load(body: Path, connections: int, *, count: int) -> list[str]:
    # fmt: off
    return ["h2load", "--h1", "-t", "1", "-c", str(connections), "-n", str(count),
            "-d", str(body), "-H", "content-type: application/json"]
    # fmt: on


def _run(server: Server, command: Sequence[str], seconds: float) -> str:
    """Returns the output of a generator. Raises ContenderFailed, GeneratorFailed."""
    try:
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=seconds + 60)  # noqa: S603
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        server.check_alive()
        said = error.stderr if isinstance(error.stderr, str) else ""
        raise GeneratorFailed(f"{command[0]} against {server.name}: {error}\n{said}".rstrip()) from None
    server.check_alive()
    return done.stdout


class _CostsOfOne(TypedDict):
    """The processor time that a measurement took, for one request."""

    server_cpu_us: float
    supervisor_cpu_us: float
    replicas_cpu_us: tuple[float, ...]
    generator_cpu: float


@dataclass(frozen=True, slots=True)
class _Costs:
    """The processor time that a measurement took."""

    server: ProcessorTime
    generator_cpu: float

    def per_request(self, requests: int) -> _CostsOfOne:
        """The figures of a `Load`."""
        us = 1e6 / max(1, requests)
        return {
            "server_cpu_us": self.server.total_s * us,
            "supervisor_cpu_us": self.server.supervisor_s * us,
            "replicas_cpu_us": tuple(taken_s * us for taken_s in self.server.replicas_s.values()),
            "generator_cpu": self.generator_cpu,
        }


class _Usage:
    """The processor time of the server and of the generator from now on."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._began = time.perf_counter()
        self._server_time = server.processor_time()
        self._generator_cpu_s = _children_cpu_s()

    def since(self) -> _Costs:
        """The costs up to now."""
        seconds = time.perf_counter() - self._began
        server_time = self._server.processor_time() - self._server_time
        return _Costs(server_time, (_children_cpu_s() - self._generator_cpu_s) / seconds)


def _children_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
