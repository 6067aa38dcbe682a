"""The pools and their workers (`/pools`), and the health of the service."""

from datetime import datetime
from typing import TypeVar

import msgspec

from poolshift.client.calls import Call, RawAnswer, get, post, reader, segment

_State = TypeVar("_State")


class Worker(msgspec.Struct, frozen=True, kw_only=True):
    """A worker, measured on its process."""

    pid: int
    node: str | None = None
    """The node of a cluster that it is on; None is the service's own machine."""
    replica: int | None = None
    """The replica that it works for; None if the machine has one process."""
    state: str
    age_s: float
    executions: int
    rss_bytes: int | None = None
    cpu_seconds: float | None = None
    open_fds: int | None = None
    programs_revision: str | None = None
    calls: int = 0
    """The calls that run on it, one at most unless the engine is `async_pool`."""
    execution_id: str | None = None
    """The running call; of several, the oldest."""
    program_id: str | None = None
    running_s: float | None = None


class BrokenProgram(msgspec.Struct, frozen=True, kw_only=True):
    """A program that the code before a reload loaded and the code after does not."""

    program_id: str
    reason: str


class Reload(msgspec.Struct, frozen=True, kw_only=True):
    """A reload that has replaced a pool's workers."""

    at: datetime
    by: str
    """The key that asked; `SIGHUP`, or `--reload` of the service itself."""
    reason: str | None = None
    previous: bool = False
    """True if it brought the code before the last reload back."""
    forced: bool = False
    before: str | None = None
    after: str | None = None
    tried: int = 0
    """The definitions of programs that were tried with the new code."""
    untried: int = 0
    broken: list[BrokenProgram] = []
    """The programs that it broke, since it was forced."""


class RunAlone(msgspec.Struct, frozen=True, kw_only=True):
    """A program of the engine `async_pool` whose calls are kept apart from others."""

    program_id: str
    reason: str


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """Counts since the start of the service."""

    dispatched: int
    worker_starts: int
    worker_exits: dict[str, int]
    cpu_seconds: float = 0.0


class Pool(msgspec.Struct, frozen=True, kw_only=True):
    """One pool."""

    pool_version: str
    ready: bool
    size: int
    busy: int
    idle: int
    starting: int
    queue_depth: int
    utilization: float
    totals: Totals
    workers: list[Worker]
    engine: str | None = None
    python: str | None = None
    """The version of the workers' Python; None if it cannot run workers."""
    interpreter: str | None = None
    packages: dict[str, str] | None = None
    programs_dir: str | None = None
    worker_env_file: str | None = None
    preload: list[str] = []
    workers_on: str = "local"
    """`local`, or `ray` for the nodes of a cluster."""
    wished_size: int | None = None
    """The workers that the settings ask for; `size` is less if nodes are lacking."""
    lm: str | None = None
    fault: str | None = None
    """The reason why no worker has started, if none has."""
    stopping: int = 0
    warm: int = 0
    """The live workers that have loaded the programs which were used lately, as far as they can."""
    service_time_s: float = 0.0
    programs_revision: str | None = None
    previous_revision: str | None = None
    """The revision of the code from before the last reload; None if that code is not kept."""
    last_reload: Reload | None = None
    """The last reload since the pool started."""
    programs_commit: str | None = None
    """The git commit of that code, with `-dirty` if it differs."""
    run_alone: list[RunAlone] = []
    """The programs of the engine `async_pool` whose calls are kept apart from others, and why."""
    missing_replicas: list[str] = []
    """The replicas of the machine whose part is missing, with the reason, such as `1: silent`."""


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that V2 changes; None is absent or unknown."""

    what: str
    v1: str | None = None
    v2: str | None = None


class Differences(msgspec.Struct, frozen=True, kw_only=True):
    """All that V2 changes."""

    summary: str
    """The difference in one line; `nothing` if there is none."""
    changes: list[Difference]
    packages: list[Difference] = []
    package_count: int = 0
    """The packages of both pools together."""


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """The state of the process; `failing` lists the vital parts that a restart would repair."""

    status: str
    failing: list[str] = []


class Readiness(msgspec.Struct, frozen=True, kw_only=True):
    """The state of the service, and of each pool."""

    ready: bool
    status: str = ""
    """`ready`, `unready` or `draining`."""
    draining: bool = False
    missing: list[str] = []
    """The parts that the service cannot serve without, and that are not there."""
    pools: dict[str, bool] = {}


def listed() -> Call[list[Pool]]:
    """Reads all pools with their workers (scope `observe`)."""
    return get("/pools", list[Pool])


def show(version: str) -> Call[Pool]:
    """Reads a pool with its workers (scope `observe`)."""
    return get(f"/pools/{segment(version)}", Pool)


def diff() -> Call[Differences]:
    """Reads what V2 changes against V1 (scope `observe`)."""
    return get("/pools/diff", Differences)


def reload(version: str, *, previous: bool = False, force: bool = False, reason: str | None = None) -> Call[Pool]:
    """Replaces a pool's workers by workers with the code on disk, and waits for that. No call is lost.

    The service refuses code that breaks programs, unless `force` is set with a `reason`. With `previous` the code
    from before the last reload comes back.
    """
    return post(f"/pools/{segment(version)}/reload", Pool, _reload_body(previous, force, reason))


def reload_all(*, previous: bool = False, force: bool = False, reason: str | None = None) -> Call[list[Pool]]:
    """Replaces the workers of all pools, as `reload` does. Amid a ramp the service asks for `force`."""
    return post("/pools/reload", list[Pool], _reload_body(previous, force, reason))


def _reload_body(previous: bool, force: bool, reason: str | None) -> dict[str, object]:  # noqa: FBT001 - members
    return {"previous": previous, "force": force, "reason": reason}


def health() -> Call[Health]:
    """Reads the state of the process. A process that should be restarted is not an error."""
    return _asked("/healthz", Health)


def readiness() -> Call[Readiness]:
    """Reads whether the service can serve. A service that cannot is not an error."""
    return _asked("/readyz", Readiness)


def metrics() -> Call[str]:
    """Reads every figure in Prometheus's text format."""
    return Call("GET", "/metrics", _text, is_idempotent=True)


def _asked(path: str, kind: type[_State]) -> Call[_State]:
    return Call("GET", path, reader(kind), is_idempotent=True, more_statuses=(503,))


def _text(raw: RawAnswer) -> str:
    return raw.content.decode()
