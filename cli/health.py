"""`poolshift health` and `poolshift failures`: the state of a service, and its newest failed calls."""

from typing import Annotated, Literal

import typer

from cli.errors import ExitCode
from cli.output import AsJson, print_fields, print_json, print_rows, when
from cli.service import Service, on_service
from poolshift.client import failures, pools

health_app = typer.Typer(add_completion=False, rich_markup_mode=None)
failures_app = typer.Typer(add_completion=False, rich_markup_mode=None)


@health_app.command()
@on_service
def health(service: Service, *, as_json: AsJson = False) -> None:
    """Shows if the service lives and is ready (exit code 1 if not)."""
    state, readiness = service.ask(pools.health()), service.ask(pools.readiness())
    if as_json:
        print_json({"health": state, "readiness": readiness})
    else:
        print_fields(
            {
                "health": state["status"],
                **({"failing": ", ".join(state["failing"])} if state["failing"] else {}),
                "ready": readiness["ready"],
                "draining": readiness["draining"],
                **({"missing": ", ".join(readiness["missing"])} if readiness["missing"] else {}),
                **{f"pool {name}": "ready" if ready else "not ready" for name, ready in readiness["pools"].items()},
            }
        )
    if state["status"] != "ok" or not readiness["ready"]:
        raise typer.Exit(ExitCode.REFUSED)


@failures_app.command(name="failures")
@on_service
def show_failures(
    service: Service,
    *,
    code: Annotated[str | None, typer.Option(help="An error code; without it all.")] = None,
    pool_version: Annotated[Literal["v1", "v2"] | None, typer.Option(help="A version; without it both.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Calls to show at most.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Shows the newest failed calls of one machine, and counts them by code and version."""
    found = service.ask(failures.newest(code=code, pool_version=pool_version, limit=limit))
    if as_json:
        print_json(found)
        return
    print_rows(
        ("CODE", "CATEGORY", "V1", "V2"),
        [(one["code"], one["category"], one["v1"], one["v2"]) for one in found["counts"]],
    )
    print()
    print_rows(
        ("WHEN", "POOL", "CODE", "PROGRAM", "EXECUTION", "DETAIL"),
        [
            (
                when(one["at"]),
                one["pool_version"],
                one["code"],
                one["program_id"],
                one["execution_id"],
                one["detail"],
            )
            for one in found["items"]
        ],
    )
    if missing := found.get("missing_replicas"):
        print(f"without replica {'; replica '.join(missing)}")
