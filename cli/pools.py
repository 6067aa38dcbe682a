"""`poolshift pools`: shows the pools and their workers."""

from typing import Annotated, Any, Literal

import typer

from cli.output import AsJson, print_json, print_rows
from cli.service import Service, on_service

MIB = 1024 * 1024

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command("pools")
@on_service
def show_pools(
    service: Service,
    version: Annotated[
        Literal["v1", "v2"] | None,
        typer.Argument(metavar="VERSION", help="The pool to show (v1 or v2), with its workers."),
    ] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Shows the pools, or one with its workers."""
    answer = service.get(f"/pools/{version}" if version else "/pools")
    if as_json:
        print_json(answer)
        return
    print_rows(
        (
            "POOL",
            "READY",
            "SIZE",
            "BUSY",
            "IDLE",
            "STARTING",
            "QUEUED",
            "UTILIZATION %",
            "DISPATCHED",
            "STARTS",
            "EXITS",
        ),
        [_summary(pool) for pool in ([answer] if version else answer)],
    )
    if version:
        print()
        print_rows(
            ("PID", "STATE", "AGE S", "EXECUTIONS", "RSS MIB", "CPU S", "OPEN FDS"),
            [_worker(worker) for worker in answer["workers"]],
        )


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
        pool["queue_depth"],
        round(pool["utilization"] * 100, 1),
        totals["dispatched"],
        totals["worker_starts"],
        exits or None,
    )


def _worker(worker: dict[str, Any]) -> tuple[object, ...]:
    rss, cpu = worker["rss_bytes"], worker["cpu_seconds"]
    return (
        worker["pid"],
        worker["state"],
        round(worker["age_s"], 1),
        worker["executions"],
        None if rss is None else round(rss / MIB, 1),
        None if cpu is None else round(cpu, 2),
        worker["open_fds"],
    )
