"""`poolshift pools`: shows the pools, their workers and their differences, and gives them the code on disk."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from cli.errors import printable
from cli.output import AsJson, print_json, print_rows
from cli.service import Service, on_service
from poolshift.client import pools

MIB = 1024 * 1024


class ShowsByDefault(TyperGroup):
    """A group in which `show` need not be said: `poolshift pools v2` is `poolshift pools show v2`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Puts `show` first if no command is named."""
        is_named = "--help" in args or any(arg in self.commands for arg in args)
        return super().parse_args(ctx, args if is_named else ["show", *args])


app = typer.Typer(
    cls=ShowsByDefault,
    add_completion=False,
    rich_markup_mode=None,
    help="Shows the pools (by default), compares and reloads them.",
)

Pool = Literal["v1", "v2"]


@app.command("show")
@on_service
def show_pools(
    service: Service,
    version: Annotated[
        Pool | None,
        typer.Argument(metavar="VERSION", help="The pool to show (v1 or v2), with its workers."),
    ] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Shows the pools, or one with its workers."""
    answer = service.ask(pools.show(version) if version else pools.listed())
    if as_json:
        print_json(answer)
        return
    shown = [answer] if version else answer
    print_rows(
        (
            "POOL",
            "READY",
            "SIZE",
            "BUSY",
            "IDLE",
            "STARTING",
            "WARM",
            "QUEUED",
            "UTILIZATION %",
            "DISPATCHED",
            "STARTS",
            "EXITS",
            "CODE",
        ),
        [_summary(pool) for pool in shown],
    )
    for remark in (remark for pool in shown for remark in _remarks(pool)):
        print(printable(remark))
    if version:
        print()
        workers = answer["workers"]
        of_replica = ("REPLICA",) if any(worker.get("replica") is not None for worker in workers) else ()
        print_rows(
            ("PID", *of_replica, "NODE", "STATE", "AGE S", "EXECUTIONS", "RSS MIB", "CPU S", "OPEN FDS", "CODE"),
            [_worker(worker, shows_replica=bool(of_replica)) for worker in workers],
        )


@app.command("reload")
@on_service
def reload_pools(
    service: Service,
    version: Annotated[
        Pool | None, typer.Argument(metavar="VERSION", help="The pool to reload (v1 or v2), unless --all.")
    ] = None,
    *,
    every: Annotated[
        bool, typer.Option("--all", help="Reload all pools; amid a ramp only with --force: a rollback needs V1.")
    ] = False,
    previous: Annotated[
        bool, typer.Option("--previous", help="Bring the code before the last reload back, whatever is on disk.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Take code that breaks programs, and --all amid a ramp; with --reason.")
    ] = False,
    reason: Annotated[str | None, typer.Option(help="The reason for the log and the pool's view.")] = None,
    as_json: AsJson = False,
) -> None:
    """Replaces workers by workers with the code that is on disk, one after another; no call is lost.

    The programs are loaded with the new code first; if it breaks one, the workers keep their code.
    A pool with long calls takes as long as they do: see --timeout.
    """
    _check_reload(version, every=every, force=force, reason=reason)
    if version is not None:
        call = pools.reload(version, previous=previous, force=force, reason=reason)
        reloaded = [service.ask(call)]
    else:
        reloaded = service.ask(pools.reload_all(previous=previous, force=force, reason=reason))
    if as_json:
        print_json(reloaded)
        return
    for pool in reloaded:
        print(f"{pool['pool_version']}: {pool['size']} workers have the programs' code {pool['programs_revision']}")
        for remark in _remarks_of_reload(pool):
            print(printable(remark))


def _check_reload(version: Pool | None, *, every: bool, force: bool, reason: str | None) -> None:
    """Raises BadParameter for arguments that do not go together."""
    if (version is None) is not every:
        raise typer.BadParameter("name one pool, v1 or v2, or give --all", param_hint="VERSION")
    if force and not (reason or "").strip():
        raise typer.BadParameter("--force needs --reason", param_hint="--force")


@app.command("diff")
@on_service
def diff_pools(
    service: Service,
    *,
    packages: Annotated[bool, typer.Option("--packages", help="Show each package that differs.")] = False,
    as_json: AsJson = False,
) -> None:
    """Shows what V2 changes against V1."""
    answer = service.ask(pools.diff())
    if as_json:
        print_json(answer)
        return
    print(printable(f"V2 changes: {answer['summary']}"))
    rows = [*answer["changes"], *(answer["packages"] if packages else ())]
    if rows:
        print_rows(("WHAT", "V1", "V2"), [(row["what"], row["v1"], row["v2"]) for row in rows])


def _summary(pool: dict[str, Any]) -> tuple[object, ...]:
    totals = pool["totals"]
    exits = ", ".join(f"{cause} {count}" for cause, count in sorted(totals["worker_exits"].items()) if count)
    return (
        pool["pool_version"],
        pool["ready"],
        pool["size"],
        pool["busy"],
        pool["idle"],
        pool["starting"],
        pool.get("warm"),
        pool["queue_depth"],
        round(pool["utilization"] * 100, 1),
        totals["dispatched"],
        totals["worker_starts"],
        exits or None,
        _code(pool),
    )


def _code(pool: dict[str, Any]) -> str | None:
    """Returns the revision of a pool's code, with the git commit that it is of."""
    revision: str | None = pool["programs_revision"]
    commit: str | None = pool["programs_commit"]
    if revision is None or commit is None:
        return revision
    short, dash, dirty = commit.partition("-")
    return f"{revision} (git {short[:10]}{dash}{dirty})"


def _remarks(pool: dict[str, Any]) -> Iterator[str]:
    """Says what is wrong with a pool, in lines of their own: a reason is too long for a column."""
    name = pool["pool_version"]
    if missing := pool.get("missing_replicas"):
        yield f"{name}: without replica {'; replica '.join(missing)}"
    if pool["fault"]:
        yield f"{name}: {pool['fault']}"
    if (wished := pool.get("wished_size")) is not None and pool["size"] < wished:
        yield f"{name}: there is room for {pool['size']} of {wished} workers"
    if (last := pool.get("last_reload")) is not None:
        why = f": {last['reason']}" if last["reason"] else ""
        yield f"{name}: reloaded at {last['at']} by {last['by']}, from {last['before']} to {last['after']}{why}"
    if (previous := pool.get("previous_revision")) is not None:
        yield f"{name}: keeps the code before, {previous} (`poolshift pools reload {name} --previous`)"


def _remarks_of_reload(pool: dict[str, Any]) -> Iterator[str]:
    """Says what a reload found, and the way back, in lines of their own."""
    name, last = pool["pool_version"], pool["last_reload"]
    if last is not None and last["untried"]:
        yield f"{name}: {last['untried']} definitions of programs were not tried: RELOAD_CHECK_TIMEOUT_S was too short"
    for broken in () if last is None else last["broken"]:
        yield f"{name}: breaks {broken['program_id']}: {broken['reason']}"
    if (previous := pool["previous_revision"]) is not None:
        yield f"{name}: the way back to {previous}: poolshift pools reload {name} --previous"


def _worker(worker: dict[str, Any], *, shows_replica: bool) -> tuple[object, ...]:
    rss, cpu = worker["rss_bytes"], worker["cpu_seconds"]
    return (
        worker["pid"],
        *((worker["replica"],) if shows_replica else ()),
        worker["node"],
        worker["state"],
        round(worker["age_s"], 1),
        worker["executions"],
        None if rss is None else round(rss / MIB, 1),
        None if cpu is None else round(cpu, 2),
        worker["open_fds"],
        worker["programs_revision"],
    )
